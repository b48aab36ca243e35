"""How a graph goes on from the waist to engines of torch_tensorrt: products between dequantized operands, with no op packed."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lowbit_compiler.exits.exit import Exit, leaves_whole
from lowbit_compiler.exits.forms import forms
from lowbit_compiler.options import Options
from lowbit_compiler.passes.contract import Target


def takes(options: Options, examples: Sequence[Any]) -> bool:
    """Return whether a graph that is called with ``examples`` goes into engines: asked for, and on a GPU."""
    return options.remainder == "tensorrt" and _device(examples) is not None


def torch_tensorrt(examples: Sequence[Any]) -> Exit:
    """Return the exit for a graph that is called with ``examples``, on the GPU where these are."""
    target = Target(device=_device(examples) or "cpu", has_kernels=False)  # no kernels of ours, so nothing is timed
    return Exit(target, forms("qdq"), leaves_whole("TensorRT has layers for it"))


def _device(examples: Sequence[Any]) -> str | None:
    return next((str(each.device) for each in examples if isinstance(each, Tensor) and each.device.type == "cuda"), None)
