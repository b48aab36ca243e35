"""The int32 sums of every int8 kernel are exact: x holds integers with maximum 127, so that its scale is 1 and y = float(acc)."""

import pytest
import torch

from helpers import operands
from lowbit_compiler.runtime import kernels
from lowbit_compiler.runtime.products import MAX_K

L = torch.ops.lowbit


def check(kernel, qx, qw, bias=None, dtype=torch.float32):
    n = qw.shape[0]
    packed = L.pack_s8(qw, torch.ones(n, 1))
    with kernels.using(kernel=kernel):
        y = L.linear_s8s8(qx.float(), packed, bias, n, dtype)
    expected = (qx.double() @ qw.double().t()).float()
    expected = expected if bias is None else expected + bias
    assert torch.equal(y, expected.to(dtype))


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 6, 7, 15, 16, 17, 31, 32, 33, 47, 49, 64, 65, 129])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (16, 64), (15, 63), (17, 65), (33, 127), (48, 130), (65, 576)])
def test_tile_edges(kernel_of_qgemm, m, n, k):
    check(kernel_of_qgemm, operands.codes(m, k), operands.codes(n, k, seed=3))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 35, 1536), (200, 35, 1000), (5, 501, 4096), (17, 501, 4096), (70, 501, 4096), (17, 50, 70000)]
)
def test_chunks(kernel_of_qgemm, m, n, k):
    """On one thread these panels are more than the AMX kernel keeps in L2 at a time, and the last one has no partner."""
    check(kernel_of_qgemm, operands.codes(m, k), operands.codes(n, k, seed=3), bias=torch.randn(n, generator=operands.generator(5)))


@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, -1)])
@pytest.mark.parametrize("k", [64, 1000, MAX_K])
def test_extremes(kernel_of_qgemm, signs, k):
    """All codes at the limit: the largest sums of pairs, and at MAX_K of int32."""
    qx = torch.full((3, k), signs[0] * 127, dtype=torch.int8)
    check(kernel_of_qgemm, qx, torch.full((17, k), signs[1] * 127, dtype=torch.int8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_output_rounding(kernel_of_qgemm, dtype):
    check(kernel_of_qgemm, operands.codes(9, 40, largest=127), operands.codes(19, 40, seed=3, largest=9), dtype=dtype)


@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(1, 1000, 576), (5, 1000, 576), (40, 1000, 576), (600, 1000, 576)] + [(m, n, 8192) for m in (1, 4, 5, 40) for n in (64, 144)],
)
def test_threads(kernel_of_qgemm, m, n, k):
    """Any number of threads gives the same bits, also where panels are few; exact elements in bfloat16 too."""
    x, w = operands.rows(m, k, torch.bfloat16), operands.packed_s8(operands.weight(n, k))[0]
    with kernels.using(kernel=kernel_of_qgemm):
        results = operands.on_threads((1, 2, 3, 5), lambda: [op(x, w, None, n, None) for op in (L.linear_s8s8, L.linear_s8s8_rows)])
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))
