"""Photographs in tar files, read by byte ranges."""
