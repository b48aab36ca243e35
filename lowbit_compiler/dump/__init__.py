"""What one compilation did, stage by stage: one record, written as text, diffs, JSON, pictures and an HTML page."""

from lowbit_compiler.dump.sinks import Subject, recording

__all__ = ["Subject", "recording"]
