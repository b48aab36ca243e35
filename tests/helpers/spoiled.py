"""A layer made bad on purpose: the packed weight of one parameter gets wrong scales."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from lowbit_compiler.compile import executable, prepared
from lowbit_compiler.runtime.packing import PANEL
from lowbit_compiler.runtime.weights import WeightStore


@contextmanager
def spoiled(weight: Tensor, factor: float) -> Iterator[None]:
    """Let the packed scales of every weight made from ``weight`` alone be ``factor`` times too large."""

    def compute(graph: Any, *sources: Tensor) -> tuple[Tensor, ...]:
        results = original(graph, *sources)
        if len(sources) == 1 and sources[0].data_ptr() == weight.data_ptr() and results[0].dtype is torch.int8:
            packed = results[0].clone()
            size = 4 * PANEL  # scales of rows come last, also where groups have others
            packed[:, -size:] = (packed[:, -size:].contiguous().view(torch.float32) * factor).view(torch.int8)
            return (packed,)
        return results

    original = prepared.compute
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared, "compute", compute)
        patch.setattr(executable, "STORE", WeightStore())
        yield
