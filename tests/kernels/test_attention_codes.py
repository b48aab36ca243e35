"""Attention over int8 keys and values against float64, on every kernel."""

import pytest
import torch

from helpers import operands
from helpers.attention import attention
from helpers.bounds import EPS, assert_within, unit
from helpers.samples import samples
from lowbit_compiler.runtime import kernels

L = torch.ops.lowbit
MOST_ROWS = 48  # that read codes; for more, keys and values are first rounded to the dtype
SHAPES = [  # batch, heads, key heads, rows, keys, e, f
    (1, 9, 3, 1, 1000, 64, 64),
    (3, 4, 2, 8, 200, 64, 48),
    (2, 6, 1, 8, 130, 33, 20),
    (1, 4, 4, 7, 5, 8, 8),
    (1, 1, 1, 1, 1, 1, 1),
    (1, 6, 2, 70, 300, 64, 128),
]


def tensors(shape, dtype, seed=0):
    """Queries, and keys and values as codes and scales that differ from token to token."""
    b, h, g, rows, keys, e, f = shape
    r = operands.generator(seed)
    q = (2 * torch.randn(b, rows, h, e, generator=r)).to(dtype).transpose(1, 2)
    k, v = (torch.randn(b, g, keys, n, generator=r) * (0.1 + torch.rand(b, g, keys, 1, generator=r)) for n in (e, f))
    return q, L.quantize_s8(k), L.quantize_s8(v)


def check(kernel, q, k, v, mask=None, causal=False):
    scale = q.shape[-1] ** -0.5
    with kernels.using(isa=kernel.rpartition("_")[2], kernel=kernel):  # many rows take the float kernel of that level
        y = L.sdpa_codes(q, *k, *v, mask, causal, scale)
    widened = q.shape[1] // k[0].shape[1] * q.shape[2] > MOST_ROWS
    stored = EPS + (unit(q.dtype) if widened else 0.0)
    exact = (codes.double() * scales.double() for codes, scales in (k, v))
    expected, bound = attention(q, *exact, mask, causal, scale, stored=stored)
    assert y.dtype == q.dtype
    assert_within(y, expected, bound)
    return y


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_against_float64(kernel_of_attention_codes, shape, causal):
    b, _, _, rows, keys, _, _ = shape
    keep = torch.rand(b, 1, rows, keys, generator=operands.generator(3)) > 0.4
    keep[..., keys // 2 :] = False
    added = torch.randn(rows, keys, generator=operands.generator(4))
    for dtype in operands.DTYPES:
        for mask in (None, keep, added):
            check(kernel_of_attention_codes, *tensors(shape, dtype), mask, causal)


def test_empty_places(kernel_of_attention_codes):
    """What no query sees is not read, and a sequence without a key gives zeros; a token of zeros counts like any other."""
    q, k, v = tensors((2, 6, 2, 2, 300, 64, 64), torch.bfloat16)
    k[0][:, :, 10], k[1][:, :, 10] = 0, 0
    k[1][:, :, 150:], v[1][:, :, 150:] = torch.nan, torch.inf
    keep = (torch.arange(300) < torch.tensor([150, 0]).reshape(2, 1, 1, 1)).expand(2, 1, 2, 300)
    seen = [tuple(part[:, :, :150] for part in parts) for parts in (k, v)]
    want = check(kernel_of_attention_codes, q, *seen, keep[..., :150])
    with kernels.using(kernel=kernel_of_attention_codes):
        assert torch.equal(L.sdpa_codes(q, *k, *v, keep, False, 64**-0.5), want)
    assert not want[1].any()


def test_many_rows_are_those_of_floats(kernel_of_attention_codes):
    """From 49 query rows a key head on, results are those of ``sdpa`` on the dequantized keys and values, to the bit."""
    for dtype in operands.DTYPES:
        q, k, v = tensors((2, 4, 2, 30, 200, 64, 40), dtype)
        floats = [(codes * scales).to(dtype) for codes, scales in (k, v)]
        with kernels.using(kernel=kernel_of_attention_codes):
            assert torch.equal(L.sdpa_codes(q, *k, *v, None, True, 0.1), L.sdpa(q, *floats, None, True, 0.1))


def test_nan_stays_with_its_head(kernel_of_attention_codes):
    """A token that quantizes to NaN makes NaN of those that see it."""
    q, k, v = tensors((1, 4, 2, 3, 40, 16, 16), torch.float32)
    k[1][0, 1, 7] = torch.nan
    with kernels.using(kernel=kernel_of_attention_codes):
        y = L.sdpa_codes(q, *k, *v, None, False, 0.1)
    assert y[0, 2:].isnan().all()
    assert not y[0, :2].isnan().any()


@pytest.mark.parametrize("turned", [False, True])
def test_strides(kernel_of_attention_codes, turned):
    """Heads beside each other in a token, so that scales do not lie side by side; or codes that are dense in no dimension."""
    q, k, v = tensors((2, 4, 2, 3, 70, 40, 40), torch.bfloat16)
    if turned:
        k, v = (tuple(part.transpose(1, 2).contiguous().transpose(1, 2) for part in parts) for parts in (k, v))
    else:
        k, v = ((codes.mT.contiguous().mT, scales) for codes, scales in (k, v))
    check(kernel_of_attention_codes, q, k, v)


def test_threads(kernel_of_attention_codes):
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            check(kernel_of_attention_codes, *tensors((1, 4, 2, 2, 1500, 64, 64), torch.bfloat16))
    finally:
        torch.set_num_threads(before)


WRONG = {
    "float keys": (1, lambda k: k.float(), "expected k in int8, got torch.float32"),
    "values of uint8": (3, lambda v: v.view(torch.uint8), "expected v in int8, got torch.uint8"),
    "queries in int8": (0, lambda q: q.to(torch.int8), "expected q in float32, bfloat16 or float16, got torch.int8"),
    "another E": (1, lambda k: k[..., 1:], "expected k of shape (1, G, S, 25), got (1, 2, 5, 24)"),
    "fewer values": (3, lambda v: v[:, :, 1:], "expected v of shape (1, 2, 5, F), got (1, 2, 4, 25)"),
    "flat scales": (2, lambda s: s[..., 0], "expected k_scale of shape (1, 2, 5, 1), got (1, 2, 5)"),
    "fewer scales": (4, lambda s: s[:, :, 1:], "expected v_scale of shape (1, 2, 5, 1), got (1, 2, 4, 1)"),
    "scales of bfloat16": (4, lambda s: s.bfloat16(), "expected v_scale in float32, got torch.bfloat16"),
    "mask": (5, lambda m: m[..., 1:], "expected mask that broadcasts to (1, 4, 5, 5), got (1, 1, 5, 4)"),
}  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(case, device):
    position, change, words = WRONG[case]
    arguments = list(samples()["sdpa_codes"])
    arguments[position] = change(arguments[position])
    with pytest.raises(RuntimeError) as error:
        L.sdpa_codes(*(x.to(device) if isinstance(x, torch.Tensor) else x for x in arguments))
    assert f"lowbit::sdpa_codes: {words}" in str(error.value)
