"""Weight-only kernels: exact where every partial sum is a small integer, within the bound elsewhere."""

import pytest
import torch

from helpers import bounds, operands, plain
from lowbit_compiler.runtime import kernels

L = torch.ops.lowbit
MS = (1, 2, 3, 4, 5, 8, 9, 13, 16, 31, 33, 70)
SHAPES = [(1, 1), (16, 64), (17, 65), (33, 127), (40, 300)]


def integers(m, k, dtype):
    return torch.randint(-16, 17, (m, k), generator=operands.generator(4)).to(dtype)


@pytest.mark.parametrize("dtype", operands.DTYPES)
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_s8_integers(kernel_of_fgemm_s8, n, k, dtype):
    q = operands.codes(n, k)
    packed = L.pack_s8(q, torch.full((n, 1), 0.5))
    for m in MS:
        x = integers(m, k, dtype)
        with kernels.using(kernel=kernel_of_fgemm_s8):
            y = L.linear_fs8(x, packed, None, n, torch.float32)
        assert torch.equal(y, (x.double() @ q.double().t()).float() * 0.5)


@pytest.mark.parametrize("dtype", operands.DTYPES)
@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("group", [32, 64, 128])
def test_s4_integers(kernel_of_fgemm_s4, n, k, dtype, group):
    q = operands.codes(n, k, largest=7)
    scale = 2.0 ** torch.randint(-2, 3, (n, -(-k // group)), generator=operands.generator(6))
    packed = L.pack_s4(q, scale, group)
    w = plain.dequantize_s4(q, scale, group, torch.float32).double()
    for m in MS:
        x = integers(m, k, dtype)
        with kernels.using(kernel=kernel_of_fgemm_s4):
            y = L.linear_fs4(x, packed, None, n, group, torch.float32)
        assert torch.equal(y, (x.double() @ w.t()).float())


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("m", [64, 65, 100])
def test_chunks(kernel_of_fgemm_s8, kernel_of_fgemm_s4, m):
    """Panels enough for two chunks of the AMX kernel, the last panel without a partner."""
    n, k = 173, 4000
    x = integers(m, k, torch.bfloat16)
    with kernels.using(kernel=kernel_of_fgemm_s8):
        q = operands.codes(n, k)
        y = L.linear_fs8(x, L.pack_s8(q, torch.full((n, 1), 0.5)), None, n, torch.float32)
        assert torch.equal(y, (x.double() @ q.double().t()).float() * 0.5)
    with kernels.using(kernel=kernel_of_fgemm_s4):
        q = operands.codes(n, k, largest=7)
        for group in (32, 64, 128):
            packed = L.pack_s4(q, torch.full((n, -(-k // group)), 0.5), group)
            assert torch.equal(L.linear_fs4(x, packed, None, n, group, torch.float32), (x.double() @ q.double().t()).float() * 0.5)


@pytest.mark.parametrize("m", [1, 5, 40, 70])
def test_threads(kernel_of_fgemm_s8, m):
    """Any number of threads gives the same bits."""
    x, w = operands.rows(m, 576, torch.bfloat16), operands.packed_s8(operands.weight(1000, 576))[0]
    with kernels.using(kernel=kernel_of_fgemm_s8):
        results = operands.on_threads((1, 2, 3, 5), lambda: L.linear_fs8(x, w, None, 1000, None))
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("dtype", operands.DTYPES)
@pytest.mark.parametrize("m", [1, 3, 40])
def test_s8_bound(kernel_of_fgemm_s8, m, dtype):
    k, n = 1000, 50
    x, bias = operands.rows(m, k, dtype), torch.randn(n, generator=operands.generator(3))
    packed, q, scale = operands.packed_s8(operands.weight(n, k))
    with kernels.using(kernel=kernel_of_fgemm_s8):
        y = L.linear_fs8(x, packed, bias, n, None)
    bounds.assert_within(y, *bounds.linear_float(x, q.double() * scale.double(), bias, dtype))


@pytest.mark.parametrize("dtype", operands.DTYPES)
@pytest.mark.parametrize("m", [1, 3, 40])
@pytest.mark.parametrize("group", [32, 128])
def test_s4_bound(kernel_of_fgemm_s4, m, dtype, group):
    k, n = 1000, 50
    x, bias = operands.rows(m, k, dtype), torch.randn(n, generator=operands.generator(3)).to(dtype)
    q, scale = plain.quantize_s4(operands.weight(n, k), group)
    with kernels.using(kernel=kernel_of_fgemm_s4):
        y = L.linear_fs4(x, L.pack_s4(q, scale, group), bias, n, group, None)
    w = q.double() * scale.double().repeat_interleave(group, 1)[:, :k]
    bounds.assert_within(y, *bounds.linear_float(x, w, bias, dtype, narrow=dtype is torch.bfloat16))


@pytest.mark.parametrize("m", [1, 40])
def test_nan_and_inf(kernel_of_fgemm_s8, kernel_of_fgemm_s4, m):
    """They come out where the float product has them, and rows without them stay as they are."""
    k, n, x = 100, 20, operands.rows(m + 2, 100, torch.bfloat16)
    clean = x.clone()
    x[0, 3], x[m, 5] = float("nan"), float("inf")
    w8, q, _ = operands.packed_s8(operands.weight(n, k))
    q4, s4 = plain.quantize_s4(operands.weight(n, k), 32)
    for name, op, codes in [
        (kernel_of_fgemm_s8, lambda a: L.linear_fs8(a, w8, None, n, None), q),
        (kernel_of_fgemm_s4, lambda a: L.linear_fs4(a, L.pack_s4(q4, s4, 32), None, n, 32, None), q4),
    ]:
        with kernels.using(kernel=name):
            y, before = op(x), op(clean)
        assert y[0].isnan().all()
        at_inf = codes[:, 5]
        assert torch.equal(y[m].isnan(), at_inf == 0)
        assert torch.equal(y[m][at_inf != 0].float(), at_inf[at_inf != 0].float().sign() * float("inf"))
        kept = [i for i in range(m + 2) if i not in (0, m)]
        assert torch.equal(y[kept], before[kept])
