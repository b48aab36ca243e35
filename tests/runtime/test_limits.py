"""K has limits that the op itself checks, with the same words from the fake and from every kernel."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from helpers.plain import packed_bytes
from lowbit_compiler.runtime.products import MAX_K


@pytest.mark.parametrize("fake", [False, True])
@pytest.mark.parametrize("k", [0, MAX_K + 1])
@pytest.mark.parametrize("op", ["linear_s8s8", "linear_s8s8_rotated", "linear_s8s8_rows"])
def test_k_of_integer_products(op: str, k: int, fake: bool) -> None:
    with FakeTensorMode() if fake else torch.no_grad():
        x, w = torch.zeros(2, k), torch.zeros(1, packed_bytes(k), dtype=torch.int8)
        with pytest.raises(RuntimeError, match=f"lowbit::{op}.*expected K from 1 to 133144, got {k}"):
            getattr(torch.ops.lowbit, op)(x, w, None, 16, None)


def test_weight_only_takes_any_k_but_none() -> None:
    w = torch.zeros(1, packed_bytes(0), dtype=torch.int8)
    with pytest.raises(RuntimeError, match="expected K from 1 to any, got 0"):
        torch.ops.lowbit.linear_fs8(torch.zeros(2, 0), w, None, 16, None)
