"""torch's logs: the structured trace that tlparse reads, and what its ONNX exporter says of itself."""

import logging

from torch._logging._internal import LazyTraceHandler, trace_log, trace_structured

exporter = logging.getLogger("torch.onnx._internal.exporter")


def tracing() -> bool:
    """Return whether torch writes its structured trace (its handler goes at the first event where no folder is set)."""
    return any(isinstance(handler, LazyTraceHandler) for handler in trace_log.handlers)


def artifact(name: str, text: str) -> None:
    """Hand ``text`` to torch's structured trace."""
    trace_structured("artifact", metadata_fn=lambda: {"name": name, "encoding": "string"}, payload_fn=lambda: text)
