"""Weights that are read in fewer bits: the codes of Double Rounding, and products of every kernel of this machine."""

import copy
from fractions import Fraction

import pytest
import torch

from helpers import operands
from helpers.plain import reference
from lowbit_compiler.runtime import kernels, library
from lowbit_compiler.runtime.formats import operand
from lowbit_compiler.runtime.formats.d8 import D8, narrowed
from lowbit_compiler.runtime.products import KEYS, PRODUCTS

L = torch.ops.lowbit
ONE = operand("int8-switchable", 64)
OPS = ("linear_s8d8", "linear_s8d8_rotated")


@pytest.mark.parametrize("width", D8.widths)
def test_codes(width):
    """clip(rne(q / 2^D), -2^(l-1), 2^(l-1) - 1) * 2^D in exact arithmetic, for every code; nothing happens at 8 bits."""
    q = torch.arange(-127, 128, dtype=torch.int8)
    step = 2 ** (8 - width)
    want = [min(max(round(Fraction(int(code), step)), -(2 ** (width - 1))), 2 ** (width - 1) - 1) * step for code in q]
    assert narrowed(q, width).tolist() == want
    assert torch.equal(narrowed(q, torch.tensor(float(width))), narrowed(q, width))
    ties = q[(q.int() % step == step // 2) & (q < 128 - step)] if step > 1 else q[:0]
    pairs = ties[ties.abs() < 128 - step].int()
    assert (narrowed(pairs.to(torch.int8), width).int() - pairs).sum() == 0  # no shift of the mean


def test_packed():
    """The panels of s8 and the width behind them; what is read back are the codes in that width."""
    w = operands.weight(33, 100)
    parts = L.quantize_d8(w)
    assert all(map(torch.equal, parts, L.quantize_s8(w)))
    packed = L.pack_d8(*parts)
    assert torch.equal(packed[:-1], L.pack_s8(*parts))
    assert D8.panels.width(packed) == 8
    for width in (4, 8):
        D8.panels.switch(packed, width)
        q, scale = ONE.unpack(packed, 33, 100)
        assert torch.equal(q[:, :100], narrowed(parts[0], width))
        assert torch.equal(scale, parts[1])
    assert torch.equal(packed[:-1], L.pack_s8(*parts))


def test_longest_rows():
    """The largest sum there is: all codes -128, which s8 has not."""
    k = PRODUCTS[KEYS["linear_s8d8"]].largest_k
    assert 128 * 127 * k < 2**31 <= 128 * 127 * (k + 1)
    packed = L.pack_d8(torch.full((1, k), -127, dtype=torch.int8), torch.ones(1))
    D8.panels.switch(packed, 4)
    for rows in (1, 5):
        y = L.linear_s8d8(-torch.ones(rows, k), packed, None, 1, torch.float32)
        assert torch.equal(y, torch.full((rows, 1), float(128 * 127 * k)).float() / 127)
    longer = L.pack_d8(torch.zeros(1, k + 1, dtype=torch.int8), torch.ones(1))
    with pytest.raises(RuntimeError, match=f"expected K from 1 to {k}, got {k + 1}"):
        L.linear_s8d8(torch.ones(1, k + 1), longer, None, 1, None)


@pytest.mark.skipif(library.handle() is None, reason="no native library")
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("width", D8.widths)
def test_integers(op, width):
    """The bits of the reference on every ISA; at 8 bits those of linear_s8s8. Rows that are not finite are not where those are not."""
    for n, k in [(1, 1), (17, 65), (100, 1000), (700, 576)]:
        q = operands.codes(n, k)
        q[:, 1::7] = -127
        packed = L.pack_d8(q, torch.rand(n, 1) + 0.5)
        D8.panels.switch(packed, width)
        bias = torch.randn(n, generator=operands.generator(3))
        for m in (1, 2, 5, 40) if n < 700 else (1, 70):
            x = operands.rows(m, k, torch.bfloat16)
            if m > 2:
                x[1, 0], x[m - 1, k // 2] = float("nan"), float("inf")
            fine = torch.isfinite(x).all(1)
            want = reference(op, x, packed, bias, n, torch.float32)
            for kernel in (k.name for k in kernels.kernels() if k.family in ("narrow", "qgemm") and k.isa in library.status().detected):
                with kernels.using(kernel=kernel):
                    got = getattr(L, op)(x, packed, bias, n, torch.float32)
                assert torch.equal(got[fine], want[fine])
                assert not got[~fine].isfinite().any()
            if width == 8:
                torch.testing.assert_close(
                    got, getattr(L, op.replace("d8", "s8"))(x, packed[:-1], bias, n, torch.float32), rtol=0, atol=0, equal_nan=True
                )


def test_threads():
    """Any number of threads gives the same bits."""
    w = L.pack_d8(*L.quantize_s8(operands.weight(1000, 576)))
    D8.panels.switch(w, 4)
    for m in (1, 40):
        x = operands.rows(m, 576, torch.bfloat16)
        results = operands.on_threads((1, 2, 3), lambda x=x: L.linear_s8d8(x, w, None, 1000, None))
        assert all(torch.equal(results[0], other) for other in results[1:])


def test_prologue():
    w = L.pack_d8(*L.quantize_s8(operands.weight(33, 100)))
    D8.panels.switch(w, 6)
    x, gain = operands.rows(5, 100, torch.float32), torch.rand(100)
    want = L.linear_s8d8(torch.relu(x) * gain, w, None, 33, None)
    assert torch.equal(L.linear_s8d8(x, w, None, 33, None, prologue="relu", times=gain), want)


@pytest.mark.parametrize("width", [0, 3, 7, 9, -8])
def test_widths_that_are_none(width):
    packed = copy.deepcopy(L.pack_d8(*L.quantize_s8(operands.weight(16, 64))))
    D8.panels.switch(packed, width)
    with pytest.raises(RuntimeError, match=rf"expected a width in \(4, 6, 8\) behind the panels, got {width}"):
        L.linear_s8d8(torch.ones(1, 64), packed, None, 16, None)
