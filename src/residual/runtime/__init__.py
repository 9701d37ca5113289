"""What a process runs on: device, signals, streams, files, progress. It imports errors alone."""
