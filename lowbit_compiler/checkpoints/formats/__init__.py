"""Formats of checkpoints, one file each: those that are written, and those that are only read."""
