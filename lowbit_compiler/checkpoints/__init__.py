"""Low-bit weights in files: saved, loaded, streamed out of float files, and read from those that other libraries write (docs/checkpoints.md)."""
