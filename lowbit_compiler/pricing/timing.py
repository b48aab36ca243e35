"""How every candidate is timed: the same on CPU and GPU, whatever state the caller is in, and remembered."""

import functools
from collections.abc import Callable, Sequence

import torch

from lowbit_compiler.pricing import gpu
from lowbit_compiler.runtime.timings import LONG, best
from lowbit_compiler.torch_internals import autocast


def seconds(
    key: str, names: Sequence[str], make: Callable[[], gpu.Calls], device: str, size: int | None = None, long: float = LONG
) -> dict[str, float]:
    """Return the seconds of one call of each candidate: remembered under ``key``, or measured for some ``long`` seconds at most.

    ``make`` returns the candidates by ``names``, and is called where something is to be measured. ``size``: the bytes that a call reads of
    operands that are read in turn (lowbit_compiler/pricing/gpu.py).
    """
    made = functools.cache(lambda: gpu.recorded(make(), device, size))
    # Autograd and autocast are the caller's state at compile time, not the compiled graph's.
    with torch.no_grad(), autocast.disabled():
        found = best(gpu.key(key, device), {name: lambda name=name: made()[name]() for name in names}, long)  # type: ignore[misc]
    return {name: time / gpu.calls(device, size) for name, time in found.items()}
