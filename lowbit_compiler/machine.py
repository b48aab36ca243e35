"""What the passes are told of the machine: the device of a graph, and what there is for it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.passes.contract import Target
from lowbit_compiler.runtime import cuda_library, kernels, library


def target_for(examples: Sequence[Any]) -> Target:
    """Return the target of a graph with these inputs: the GPU where one of them is there and the CUDA library is loaded."""
    on_gpu = any(isinstance(example, Tensor) and example.device.type == "cuda" for example in examples)
    if on_gpu and cuda_library.status().path is not None:
        return Target(device="cuda", attention=False)
    note = f"the CUDA library is not loaded: {cuda_library.status().reason}" if on_gpu else ""
    return Target(has_kernels=library.status().path is not None, note=note)


def kernel_for(op: str, m: int, n: int, dtype: torch.dtype, device: str) -> str:
    """Return the kernel that ``op`` gets on ``device`` for ``m`` rows of ``dtype`` and ``n`` outputs."""
    return cuda_library.kernel_for(op, m, n) if device == "cuda" else kernels.kernel_for(op, m=m, dtype=dtype)
