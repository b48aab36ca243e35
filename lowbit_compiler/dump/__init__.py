"""What one compilation did, stage by stage: one record, written as text, diffs, JSON, pictures and an HTML page."""

from lowbit_compiler.dump.sinks import recording
from lowbit_compiler.dump.text import graph_text

__all__ = ["graph_text", "recording"]
