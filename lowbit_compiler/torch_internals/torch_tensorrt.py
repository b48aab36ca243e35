"""torch_tensorrt as what runs the rest of a graph on CUDA. No GPU has run it (docs/tensorrt.md): a canary reads its source."""

import functools
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

PACKAGE = "torch_tensorrt"
FOLDING = "dynamo.lowering.passes.constant_folding"
FOLDER, KEPT = "_TorchTensorRTConstantFolder", "quantization_ops"
"""Its class that computes what depends on constants, and the set of ops that it leaves alone."""


def unusable() -> str:
    """Return why torch_tensorrt cannot compile here; "" where it can."""
    if importlib.util.find_spec(PACKAGE) is None:
        return f"{PACKAGE} is not installed"
    if not torch.cuda.is_available():
        return f"{PACKAGE} needs a CUDA device"
    try:
        importlib.import_module(PACKAGE)
    except Exception as error:  # its own, of no class that says more
        return f"{PACKAGE} cannot be imported: {error}"
    return ""


def compile_graph(gm: fx.GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
    """Return ``gm`` compiled for ``examples``: what torch_tensorrt has converters for in engines, the rest, our ops among it, as it is."""
    _keep_codes()
    compiled: Callable[..., Any] = torch._dynamo.lookup_backend(PACKAGE)(gm, list(examples))
    return compiled


@functools.cache
def _keep_codes() -> None:
    """Let its constant folder leave our dequantized weights alone: it would store them as floats, four to eight times as large."""
    folder = getattr(importlib.import_module(f"{PACKAGE}.{FOLDING}"), FOLDER)
    keep(
        folder, [op for name in dir(torch.ops.lowbit) if name.startswith("dequantize_") for op in [getattr(torch.ops.lowbit, name).default]]
    )


def keep(folder: type, ops: Sequence[Any]) -> None:
    """Add ``ops`` to what each new ``folder`` leaves alone."""
    begin = folder.__init__  # type: ignore[misc]

    @functools.wraps(begin)
    def extended(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        getattr(self, KEPT).update(ops)

    folder.__init__ = extended  # type: ignore[misc]
