"""Emulated: quantization and rotation of rows give the integers, scales and bits of the reference."""

import pytest
import torch

from helpers import plain
from helpers.operands import DTYPES, generator, overflowing_row, rows, special_rows, weight

SHAPES = [(1, 1), (3, 7), (2, 64), (5, 100), (1, 1024), (3, 1025), (2, 2056), (2, 4100)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_quantize_s8(machine, shape, dtype):
    x = rows(*shape, dtype)
    for got, want in zip(machine.quantize_s8(x), plain.quantize_s8(x), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("k", [67, 128])
def test_special_rows(machine, k):
    x = torch.stack(list(special_rows(k).values()))
    q, scale = machine.quantize_s8(x)
    want_q, want_scale = plain.quantize_s8(x)
    assert torch.equal(q, want_q)
    assert torch.equal(
        scale.view(torch.int32).masked_fill(scale.isnan(), 0), want_scale.view(torch.int32).masked_fill(want_scale.isnan(), 0)
    )
    assert torch.equal(scale.isnan(), want_scale.isnan())


def test_rows_that_are_parts_of_others(machine):
    x = rows(4, 200, torch.bfloat16)
    for part in (x[:, 3:90], x[:, 8:136], x[::2], x[:, :1]):
        for got, want in zip(machine.quantize_s8(part), plain.quantize_s8(part), strict=True):
            assert torch.equal(got, want)


def test_more_rows_than_a_grid_has_blocks(emulated_library):
    """Refused before anything is touched."""
    x = torch.zeros(1, 8).expand(1 << 31, 8)
    with pytest.raises(RuntimeError, match="it takes 2147483648 blocks, and a GPU takes 2147483647 at once"):
        emulated_library.rotate_into(x, torch.zeros(1, 64))
    assert torch.equal(emulated_library.rotate(x[:1]), torch.zeros(1, 64))  # the error is said once


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize(("n", "k"), [(1, 32), (3, 100), (5, 257), (2, 384)])
def test_quantize_s4(machine, n, k, group):
    w = weight(n, k)
    w[0, :group] = 0
    for dtype in DTYPES:
        for got, want in zip(machine.quantize_s4(w.to(dtype), group), plain.quantize_s4(w.to(dtype), group), strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rotate(machine, shape, dtype):
    x = rows(*shape, dtype)
    assert torch.equal(machine.rotate(x).view(torch.int32), plain.rotate(x).view(torch.int32))


def test_rotation_that_overflows(machine):
    x = torch.stack([overflowing_row(70), torch.randn(70, generator=generator(3))])
    torch.testing.assert_close(machine.rotate(x), plain.rotate(x), rtol=0, atol=0, equal_nan=True)
