"""What the process runs on: device, signals, streams, whole-or-nothing files, progress. Imports only errors."""
