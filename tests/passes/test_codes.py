"""Attention over keys and values that are codes times scales reads the codes; what only looks like that stays as it is."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.attention import attention
from helpers.bounds import EPS, assert_within, unit
from helpers.graphs import before_and_after
from lowbit_compiler.passes.spell import name_of

ops = torch.ops.lowbit
torch.manual_seed(0)
Q, KEEP = torch.randn(2, 4, 3, 16).bfloat16(), torch.rand(2, 1, 3, 40) > 0.3
K, V = (ops.quantize_s8(torch.randn(2, 2, 40, 16)) for _ in range(2))
INPUTS = (Q, *K, *V, KEEP)


def floats(codes: Tensor, scales: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return (codes.to(torch.float32) * scales).to(dtype)


def repeated(x: Tensor) -> Tensor:
    b, g, s, e = x.shape
    return x[:, :, None].expand(b, g, 2, s, e).reshape(b, 2 * g, s, e)


def plain(q: Tensor, k: Tensor, ks: Tensor, v: Tensor, vs: Tensor, keep: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, floats(k, ks), floats(v, vs), keep, enable_gqa=True)


def with_repeated_heads(q: Tensor, k: Tensor, ks: Tensor, v: Tensor, vs: Tensor, keep: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, repeated(floats(k, ks)), repeated(floats(v, vs)), keep)


def written_out(q: Tensor, k: Tensor, ks: Tensor, v: Tensor, vs: Tensor, keep: Tensor) -> Tensor:
    scores = q @ repeated(floats(k, ks)).transpose(2, 3) * 0.25
    return scores.masked_fill(~keep, -torch.inf).softmax(-1) @ repeated(floats(v, vs))


def in_float32(q: Tensor, k: Tensor, ks: Tensor, v: Tensor, vs: Tensor, keep: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q.float(), ks * k.float(), vs * v.float(), keep, enable_gqa=True)


@pytest.mark.parametrize("fn", [plain, with_repeated_heads, written_out, in_float32])
def test_reads_the_codes(fn) -> None:
    captured, _, _, (got,) = before_and_after(fn, INPUTS, "lower-whole")
    (node,) = (node for node in captured.gm.graph.nodes if node.target is ops.sdpa_codes.default)
    assert [str(node.args[i].meta["example_value"].dtype) for i in range(1, 5)] == ["torch.int8", "torch.float32"] * 2
    assert "mul" not in map(name_of, captured.gm.graph.nodes)
    expected, bound = attention(Q, *(codes.double() * scales.double() for codes, scales in (K, V)), KEEP, False, 0.25, stored=EPS)
    assert_within(got.bfloat16(), expected, bound)


def only_keys(q: Tensor, k: Tensor, ks: Tensor, v: Tensor, vs: Tensor, keep: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, floats(k, ks), vs.expand(2, 2, 40, 16).bfloat16(), keep, enable_gqa=True)


def scales_of_columns(q: Tensor, k: Tensor, ks: Tensor, v: Tensor, vs: Tensor, keep: Tensor) -> Tensor:
    columns = ks[:, :, :16].transpose(2, 3)
    return F.scaled_dot_product_attention(q, floats(k, columns), floats(v, vs), keep, enable_gqa=True)


def scales_of_bfloat16(q: Tensor, k: Tensor, ks: Tensor, v: Tensor, vs: Tensor, keep: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k.bfloat16() * ks.bfloat16(), v.bfloat16() * vs.bfloat16(), keep, enable_gqa=True)


def written_between(q: Tensor, k: Tensor, ks: Tensor, v: Tensor, vs: Tensor, keep: Tensor) -> Tensor:
    k, v = k.clone(), v.clone()
    keys, values = floats(k, ks), floats(v, vs)
    k.zero_()
    return F.scaled_dot_product_attention(q, keys, values, keep, enable_gqa=True)


@pytest.mark.parametrize("fn", [only_keys, scales_of_columns, scales_of_bfloat16, written_between])
def test_near_misses(fn) -> None:
    captured, _, (want,), (got,) = before_and_after(fn, INPUTS, "lower-whole")
    targets = [node.target for node in captured.gm.graph.nodes]
    assert ops.sdpa_codes.default not in targets
    assert ops.sdpa.default in targets
    assert_within(got, want.double(), torch.full(want.shape, 8 * unit(torch.bfloat16) * float(want.abs().max()), dtype=torch.float64))
