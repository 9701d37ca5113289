"""What a process runs on: device, signals, streams, files, progress. It imports only `errors`."""
