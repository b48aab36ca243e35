"""What the passes are told of the machine: the device of a graph, and what there is for it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.passes.contract import Target
from lowbit_compiler.runtime import cuda_library, kernels, library

OLDEST = (8, 0)  # compute capability with int8 tensor cores and asynchronous copies


def target_for(examples: Sequence[Any]) -> Target:
    """Return the target of a graph with these inputs: the GPU where one of them is there and the CUDA library is loaded."""
    device = next((x.device for x in examples if isinstance(x, Tensor) and x.device.type == "cuda"), None)
    note = "" if device is None else _missing(device)
    if device is not None and not note:
        return Target(device=str(device), attention=False)
    return Target(has_kernels=library.status().path is not None, note=note)


def _missing(device: torch.device) -> str:
    """Return why there are no kernels for this GPU ("" where there are)."""
    if cuda_library.status().path is None:
        return f"the CUDA library is not loaded: {cuda_library.status().reason}"
    if torch.cuda.is_available() and torch.cuda.get_device_capability(device) < OLDEST:
        return f"{torch.cuda.get_device_name(device)} is older than sm_{OLDEST[0]}{OLDEST[1]}"
    return ""


def kernel_for(op: str, m: int, n: int, dtype: torch.dtype, device: str) -> str:
    """Return the kernel that ``op`` gets on ``device`` for ``m`` rows of ``dtype`` and ``n`` outputs."""
    return cuda_library.kernel_for(op, m, n) if device == "cuda" else kernels.kernel_for(op, m=m, dtype=dtype)
