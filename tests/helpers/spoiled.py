"""A layer made bad on purpose: the packed weight of one parameter gets wrong scales."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.plain import packed_bytes
from lowbit_compiler.compile import executable
from lowbit_compiler.runtime.packing import PANEL, padded_k
from lowbit_compiler.runtime.weights import WeightStore


@contextmanager
def spoiled(weight: Tensor, factor: float) -> Iterator[None]:
    """Let the packed scales of every weight made from ``weight`` alone be ``factor`` times too large."""

    def compute(graph: Any, *sources: Tensor) -> tuple[Tensor, ...]:
        results = original(graph, *sources)
        if len(sources) == 1 and sources[0].data_ptr() == weight.data_ptr() and results[0].dtype is torch.int8:
            packed = results[0].clone()
            int8 = packed_bytes(weight.shape[1])
            size = 4 * PANEL if packed.shape[1] == int8 else packed.shape[1] - PANEL * padded_k(weight.shape[1]) // 2
            packed[:, -size:] = (packed[:, -size:].contiguous().view(torch.float32) * factor).view(torch.int8)
            return (packed,)
        return results

    original = executable.compute
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executable, "compute", compute)
        patch.setattr(executable, "STORE", WeightStore())
        yield
