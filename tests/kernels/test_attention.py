"""Every attention kernel against float64, and what scores and masks at their limits give."""

import itertools

import pytest
import torch

from helpers import operands
from helpers.attention import attention
from helpers.bounds import assert_within
from lowbit_compiler.runtime import kernels

L = torch.ops.lowbit
SHAPES = [  # batch, heads, key heads, rows, keys, e, f
    (1, 4, 4, 7, 5, 8, 8),
    (2, 4, 2, 34, 200, 64, 64),
    (1, 3, 1, 1, 1000, 48, 20),
    (1, 6, 2, 70, 130, 64, 64),
    (1, 2, 2, 33, 400, 33, 128),
    (1, 1, 1, 1, 1, 1, 1),
    (1, 12, 1, 1, 129, 80, 80),
]


def dtypes_of(kernel):
    return (torch.bfloat16,) if "bf16" in kernel else operands.DTYPES


def tensors(shape, dtype, seed=0):
    """Query and keys as heads of a projection lie in memory, values dense."""
    b, h, g, rows, keys, e, f = shape
    r = operands.generator(seed)
    q = (2 * torch.randn(b, rows, h, e, generator=r)).to(dtype).transpose(1, 2)
    k = torch.randn(b, keys, g, e, generator=r).to(dtype).transpose(1, 2)
    return q, k, torch.randn(b, g, keys, f, generator=r).to(dtype)


def masks(shape, dtype):
    b, h, _, rows, keys, _, _ = shape
    r = operands.generator(3)
    keep = torch.rand(b, 1, rows, keys, generator=r) > 0.4
    keep[..., : rows // 2, keys // 2 :] = False  # tiles that nobody sees
    bias = torch.randn(1, h, rows, keys, generator=r).to(dtype)
    bias[..., 0] = -torch.inf
    padding = torch.zeros(b, 1, 1, keys)
    padding[..., keys // 2 + 1 :] = torch.finfo(torch.float32).min
    return {"none": None, "keep": keep, "bias": bias, "padding": padding, "rows": keep[0, 0, :, :1], "keys": keep[0, 0, 0]}


def check(kernel, q, k, v, mask=None, causal=False, scale=None):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    with kernels.using(kernel=kernel):
        y = L.sdpa(q, k, v, mask, causal, scale)
    expected, bound = attention(q, k, v, mask, causal, scale, rounded="bf16" in kernel)
    assert y.dtype == q.dtype
    assert y.shape == expected.shape
    assert_within(y, expected, bound)
    return y


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_against_float64(kernel_of_attention, shape, causal):
    for dtype in dtypes_of(kernel_of_attention):
        for mask in masks(shape, dtype).values():
            check(kernel_of_attention, *tensors(shape, dtype), mask, causal)


@pytest.mark.parametrize("scale", [-0.3, 0.0, 1.0])
def test_scale(kernel_of_attention, scale):
    for dtype in dtypes_of(kernel_of_attention):
        check(kernel_of_attention, *tensors(SHAPES[1], dtype), scale=scale)


@pytest.mark.parametrize(("first", "last"), [(0, 300), (300, 0), (-1e4, 1e4), (1e4, -1e4)])
def test_scores_that_rise_and_fall(kernel_of_attention, first, last):
    """The exponent of a row follows the largest score: one key of each tile exceeds all before it, or none does."""
    keys, e = 600, 16
    q, k = torch.zeros(1, 1, 40, e), torch.zeros(1, 1, keys, e)
    q[..., 0] = 1
    k[..., 0] = torch.linspace(first, last, keys)
    v = torch.randn(1, 1, keys, e, generator=operands.generator(1))
    for dtype in dtypes_of(kernel_of_attention):
        check(kernel_of_attention, q.to(dtype), k.to(dtype), v.to(dtype), scale=1.0)


def test_unseen_and_uniform_rows(kernel_of_attention):
    q, k, v = tensors(SHAPES[1], dtypes_of(kernel_of_attention)[0])
    mask = torch.zeros(q.shape[2], k.shape[2])
    mask[3] = -torch.inf
    mask[5] = torch.finfo(torch.float32).min
    mask[7] = -1e9
    with kernels.using(kernel=kernel_of_attention):
        y = L.sdpa(q, k, v, mask, False, 0.1)
    assert torch.equal(y[:, :, 3], torch.zeros_like(y[:, :, 3]))
    mean = v.double().mean(-2, keepdim=True).repeat_interleave(2, 1)
    for row in (5, 7):  # as torch: the mask absorbs the scores
        error = 2e-2 if "bf16" in kernel_of_attention else 1e-2 if q.dtype is torch.bfloat16 else 1e-5
        assert_within(y[:, :, row : row + 1], mean, torch.full(mean.shape, error, dtype=torch.float64))
    nothing = torch.zeros(q.shape[2], k.shape[2], dtype=torch.bool)
    assert not check(kernel_of_attention, q, k, v, nothing).any()


def test_nan_stays_in_its_row(kernel_of_attention):
    q, k, v = tensors(SHAPES[1], dtypes_of(kernel_of_attention)[0])
    clean = L.sdpa(q, k, v, None, False, 0.1)
    for value in (torch.nan, torch.inf):
        broken = q.clone()
        broken[0, 2, 9, 1] = value
        with kernels.using(kernel=kernel_of_attention):
            y = L.sdpa(broken, k, v, None, False, 0.1)
        assert y[0, 2, 9].isnan().all()
        y[0, 2, 9] = clean[0, 2, 9]
        assert not y.isnan().any()


def test_hidden_keys_may_be_nan_free_of_effect_on_weights(kernel_of_attention):
    """Memory past the last key is never read into a result."""
    q, k, v = tensors((1, 2, 1, 20, 40, 24, 24), dtypes_of(kernel_of_attention)[0])
    padded_k, padded_v = (torch.full((1, 1, 64, 40), torch.nan, dtype=q.dtype) for _ in range(2))
    padded_k[:, :, :40, :24], padded_v[:, :, :40, :24] = k, v
    check(kernel_of_attention, q, padded_k[:, :, :40, :24], padded_v[:, :, :40, :24])


@pytest.mark.parametrize(("rows", "keys"), [(1, 3000), (2, 1500), (50, 400)])
def test_threads(kernel_of_attention, rows, keys):
    """Ranges of keys that different threads see merge to the same result, within the bound."""
    before = torch.get_num_threads()
    try:
        for threads, dtype in itertools.product((1, 2, 3), dtypes_of(kernel_of_attention)):
            torch.set_num_threads(threads)
            check(kernel_of_attention, *tensors((1, 4, 2, rows, keys, 64, 64), dtype))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("rows", "keys"), [(0, 5), (5, 0), (0, 0)])
def test_empty(kernel_of_attention, rows, keys):
    q, k, v = tensors((2, 2, 1, rows, keys, 8, 8), torch.bfloat16)
    with kernels.using(kernel=kernel_of_attention):
        y = L.sdpa(q, k, v, None, False, 1.0)
    assert y.shape == (2, 2, rows, 8)
    assert not y.any()


@pytest.mark.parametrize("width", [16, 40])
def test_dense_in_no_dimension(kernel_of_attention, width):
    q, k, v = (t.mT.contiguous().mT for t in tensors((1, 2, 2, 20, 70, width, width), dtypes_of(kernel_of_attention)[0]))
    check(kernel_of_attention, q, k, v, torch.ones(70, 20, dtype=torch.bool).t(), causal=True)


@pytest.mark.parametrize("causal", [False, True])
def test_ranges_of_keys_that_nobody_sees(kernel_of_attention, causal):
    """Long keys are cut into ranges for the threads; some rows see nothing in some of them, or only a NaN or an infinity."""
    q, k, v = tensors((1, 2, 1, 4, 3000, 24, 24), dtypes_of(kernel_of_attention)[0])
    mask = torch.ones(4, 3000, dtype=torch.bool)
    mask[0, :1500] = False
    mask[1, 1500:] = False
    mask[2] = False
    check(kernel_of_attention, q, k, v, mask, causal)
    bias = torch.zeros(4, 3000).masked_fill(~mask, -torch.inf)
    check(kernel_of_attention, q, k, v, bias, causal)
    for value in (torch.nan, torch.inf):
        bias[3, 2 if causal else 2900] = value
        with kernels.using(kernel=kernel_of_attention):
            y = L.sdpa(q, k, v, bias, causal, 0.2)
        assert y[:, :, 3].isnan().all()
        assert not y[:, :, :3].isnan().any()


@pytest.mark.parametrize("where", ["keys", "values"])
def test_nan_in_keys_and_values(kernel_of_attention, where):
    """Every query that sees the key is NaN, in all columns or in the one of the value; hidden keys do no harm to the weights."""
    q, k, v = tensors(SHAPES[1], dtypes_of(kernel_of_attention)[0])
    (k if where == "keys" else v)[0, 0, 20, 3] = torch.nan
    with kernels.using(kernel=kernel_of_attention):
        y = L.sdpa(q, k, v, None, True, 0.1)
    own = y[0, :2, :, 3]
    assert own[:, 20:].isnan().all()
    assert not y[1].isnan().any()
    assert not y[0, 2:].isnan().any()


@pytest.mark.parametrize(("e", "f"), [(0, 8), (0, 64), (8, 0)])
def test_no_width(kernel_of_attention, e, f):
    """Without a query all weights are equal."""
    q, k, v = tensors((1, 2, 1, 40, 70, e, f), dtypes_of(kernel_of_attention)[0])
    y = check(kernel_of_attention, q, k, v, scale=1.0)
    assert y.shape == (1, 2, 40, f)


def test_scale_zero_and_large_products(kernel_of_attention):
    q, k, v = tensors(SHAPES[1], dtypes_of(kernel_of_attention)[0])
    with kernels.using(kernel=kernel_of_attention):
        y = L.sdpa(q * 2.0**12, k * 2.0**12, v, None, False, 0.0)
        broken = L.sdpa(q, k, v, None, False, torch.nan)
    mean = v.double().mean(-2, keepdim=True).repeat_interleave(2, 1)
    assert_within(y, mean.expand(y.shape), torch.full(y.shape, 2e-2, dtype=torch.float64))
    assert broken.isnan().all()


@pytest.mark.parametrize("rows", [1, 4, 70])
@pytest.mark.parametrize("kind", [torch.bool, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_places_that_are_empty_are_not_read(kernel_of_attention, rows, kind):
    """A static cache, or padding: no query sees a key past the end of its sequence, and what lies there is anything at all."""
    lengths = (201, 0, 77)  # an empty sequence gives zeros
    for dtype in dtypes_of(kernel_of_attention):
        q, k, v = tensors((3, 6, 2, rows, 330, 64, 48), dtype)
        known_k, known_v = k.clone(), v.clone()
        for sequence, length in enumerate(lengths):
            k[sequence, :, length:], v[sequence, :, length:] = torch.nan, torch.inf
        keep = torch.arange(330) < torch.tensor(lengths).reshape(3, 1, 1, 1)
        keep = keep.expand(3, 1, rows, 330).contiguous()
        keep[0, 0, : rows // 2, 30:] = False
        mask = keep if kind is torch.bool else torch.zeros(keep.shape, dtype=kind).masked_fill(~keep, -torch.inf)
        with kernels.using(kernel=kernel_of_attention):
            y = L.sdpa(q, k, v, mask, False, 0.125)
        expected, bound = attention(
            q, known_k[:, :, :201], known_v[:, :, :201], mask[..., :201], False, 0.125, rounded="bf16" in kernel_of_attention
        )
        assert_within(y, expected, bound)
        assert not y[1].any()


@pytest.mark.parametrize("lowest", [torch.finfo(torch.float32).min, -1e9])
def test_a_large_negative_mask_hides_nothing_alone(kernel_of_attention, lowest):
    """Keys at the end under a finite mask are read: a row of nothing else is uniform over all of them."""
    q, k, v = tensors((1, 2, 1, 3, 150, 32, 32), dtypes_of(kernel_of_attention)[0])
    mask = torch.zeros(3, 150)
    mask[0], mask[1:, 100:] = lowest, lowest
    check(kernel_of_attention, q[:, :, 1:], k, v, mask[1:])
    with kernels.using(kernel=kernel_of_attention):
        y = L.sdpa(q, k, v, mask, False, 0.1)
    mean = v.double().mean(-2).repeat_interleave(2, 1)
    assert_within(y[:, :, 0], mean, torch.full(mean.shape, 2e-2, dtype=torch.float64))
