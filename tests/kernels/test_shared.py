"""Products of int8 rows in parts, as several processes compute them: the bits of the whole product, on every level."""

import pytest
import torch

from helpers import operands
from lowbit_compiler.runtime import kernels, library
from lowbit_compiler.runtime.products import MAX_K
from lowbit_compiler.runtime.reference import shared

L = torch.ops.lowbit
N = 37
LEVELS = library.status().active or (None,)


def whole(x, w, bias, rotated):
    """The product of one process."""
    packed = L.pack_s8(*L.quantize_s8(L.rotate(w) if rotated else w))
    return (L.linear_s8s8_rotated if rotated else L.linear_s8s8)(x, packed, bias, len(w), None)


def in_parts(x, w, bias, rotated, count, steps=L):
    """The same by ``count`` processes, one after the other: what these would send is reduced here."""
    xs, ws = x.chunk(count, -1), w.chunk(count, 1)
    treated = [L.rotate(part) if rotated else part for part in ws]
    a = torch.stack([part.abs().amax(1, keepdim=True) for part in treated]).amax(0)
    packed = []
    for part in treated:  # a column that reaches what the whole row does, taken away again
        q, scale = L.quantize_s8(torch.cat([part, a], 1))
        packed.append(L.pack_s8(q[:, :-1].contiguous(), scale))
    reach = torch.stack([steps.reach_s8(part, rotated) for part in xs]).amax(0)
    sums = sum(steps.sums_s8s8(part, reach, p, len(w), rotated) for part, p in zip(xs, packed, strict=True))
    return steps.scale_sums(sums, reach, packed[0], bias, xs[0].shape[-1], x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_parts_have_the_bits_of_the_whole(level, rotated, dtype):
    for rows in (1, 3, 21, 70):
        x, w, bias = operands.rows(rows, 512, dtype), operands.weight(N, 512), torch.randn(N)
        x[rows // 2] = 0.0
        x[rows // 3, 300] = torch.nan
        w[3], w[5] = 0.0, torch.inf
        with kernels.using(level) if level else torch.no_grad():
            got, want = in_parts(x, w, bias, rotated, 4), whole(x, w, bias, rotated)
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
        assert want.isnan().any()
        torch.testing.assert_close(in_parts(x, w, bias, rotated, 4, shared), want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("op", ["linear_s8s8", "linear_s8s8_rotated"])
def test_one_process_alone(op):
    """Also rows that are not finite, before a rotation or after it."""
    x, w, bias = operands.rows(9, 200, torch.float32), operands.weight(N, 200), torch.randn(N)
    x[1, 7], x[2, 5], x[2, 6], x[4], x[5] = torch.inf, torch.inf, torch.nan, 3e38, 1e-38
    packed = L.pack_s8(*L.quantize_s8(L.rotate(w) if op.endswith("rotated") else w))
    shared_op = getattr(L, op.replace("s8s8", "s8s8_shared"))
    for each in (x, x[:0], x[3:4]):
        got, want = shared_op(each, packed, bias, N, [], None), getattr(L, op)(each, packed, bias, N, None)
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("op", ["linear_s8s8", "linear_s8s8_rotated"])
def test_what_rows_go_through_first(op):
    x, w = operands.rows(9, 128, torch.bfloat16), operands.weight(N, 128)
    x[2, 3], x[4, 5] = torch.inf, torch.nan
    fused = {"prologue": "silu", "times": operands.rows(9, 128, torch.bfloat16, seed=3), "plus": torch.randn(128)}
    packed = L.pack_s8(*L.quantize_s8(L.rotate(w) if op.endswith("rotated") else w))
    call = getattr(L, op.replace("s8s8", "s8s8_shared"))
    for each in (x, x[:2]):
        given = fused | {"times": fused["times"][: len(each)]}
        got, want = call(each, packed, None, N, [], None, **given), getattr(L, op)(each, packed, None, N, None, **given)
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
    reach = L.reach_s8(x, True, **fused)
    plain = shared.reach_s8(x, True, **fused)
    torch.testing.assert_close(reach.view(torch.float32), plain.view(torch.float32), equal_nan=True)
    sums, plain = L.sums_s8s8(x, reach, packed, N, True, **fused), shared.sums_s8s8(x, reach, packed, N, True, **fused)
    assert (sums - plain).abs().max() <= 128 * 127  # a code may differ by one
    with pytest.raises(RuntimeError, match="expected no norm in front of a part of K, got rms_norm"):
        call(x, packed, None, N, [], None, prologue="rms_norm")


@pytest.mark.parametrize("level", LEVELS)
def test_the_largest_sum_does_not_overflow(level):
    x = torch.ones(6, MAX_K)
    packed = L.pack_s8(torch.full((16, MAX_K), 127, dtype=torch.int8), torch.ones(16, 1))
    with kernels.using(level) if level else torch.no_grad():
        sums = L.sums_s8s8(x, L.reach_s8(x, False), packed, 16, False)
    assert sums.unique().tolist() == [127 * 127 * MAX_K]
    assert 127 * 127 * (MAX_K + 1) >= 2**31


def test_a_row_reaches_what_its_parts_do():
    x = torch.tensor([[1.0, -3.0], [0.0, -0.0], [torch.inf, 1.0], [-torch.inf, torch.nan]])
    reach = L.reach_s8(x, False)
    assert reach.flatten().tolist() == [0x40400000, 0, shared.INF, shared.NAN]
    assert torch.equal(reach, shared.reach_s8(x, False))
