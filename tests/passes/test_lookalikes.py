"""Graphs that look like a softmax or an attention and are not, or only almost: the whole pipeline leaves their values as they are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.graphs import before_and_after, calls

torch.manual_seed(0)
X = torch.randn(3, 9, 17)
Q, K, V = torch.randn(1, 4, 9, 16), torch.randn(1, 4, 17, 16), torch.randn(1, 4, 17, 8)
KEEP = torch.rand(9, 17) > 0.3
KEEP[:, 0] = True
ROWS = torch.zeros(9, 17, dtype=torch.bool)
ROWS[3] = True
COLUMNS = torch.zeros(9, 17, dtype=torch.bool)
COLUMNS[:, 5:] = True


def quotient_of_a_row(x: Tensor) -> Tensor:
    e = torch.exp(x - x.amax(1, keepdim=True))
    return e / e.sum(1, keepdim=True)[0]


def filled_tensor_written(x: Tensor) -> Tensor:
    fill = torch.full((9, 17), -1e9)
    fill[:, :4] = 0
    return torch.where(KEEP, x, fill).softmax(-1)


def filled_tensor_written_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    fill = torch.full((9, 17), -1e9)
    fill[:, :4] = 0
    return torch.where(KEEP, q @ k.mT, fill).softmax(-1) @ v


def infinite_bias_then_fill(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    bias = torch.zeros(9, 17).masked_fill(ROWS, -torch.inf)
    return ((q @ k.mT + bias).masked_fill(ROWS, -1e9)).softmax(-1) @ v


def written_by_out(x: Tensor) -> tuple[Tensor, Tensor]:
    kept = torch.zeros_like(x)
    e = torch.exp(x - x.amax(-1, keepdim=True), out=kept)
    return e / e.sum(-1, keepdim=True), kept * 1


def softmax_in_another_order(x: Tensor) -> Tensor:
    y = x.transpose(1, 2)
    e = torch.exp(y - y.amax(-1, keepdim=True))
    return (e / e.sum(-1, keepdim=True)).transpose(1, 2).view(-1, 17)


SOFTMAX: dict[str, Callable[[Tensor], Any]] = {
    "logsumexp of a row": lambda x: x - x.logsumexp(1, keepdim=True)[0],
    "quotient of a row": quotient_of_a_row,
    "tensor filled, then written": filled_tensor_written,
    "two fills": lambda x: x.masked_fill(ROWS, -1e9).masked_fill(COLUMNS, -1e9).softmax(-1),
    "fill over NaN": lambda x: x.log().masked_fill(x <= 0, -1e9).softmax(-1),
    "written by out": written_by_out,
    "keywords": lambda x: torch.log(input=torch.exp(input=x)) + F.dropout(input=x, training=False),
    "another order": softmax_in_another_order,
}
ATTENTION: dict[str, Callable[..., Any]] = {
    "tensor filled, then written": filled_tensor_written_attention,
    "two fills": lambda q, k, v: (q @ k.mT).masked_fill(ROWS, -1e9).masked_fill(COLUMNS, -1e9).softmax(-1) @ v,
    "bias, then fill": infinite_bias_then_fill,
    "mask of keys": lambda q, k, v: (q @ k.mT).masked_fill(COLUMNS[0], -torch.inf).softmax(-1) @ v,
    "a number as mask": lambda q, k, v: (q @ k.mT + torch.tensor(0.5)).softmax(-1) @ v,
    "viewed as rows": lambda q, k, v: ((q @ k.mT).softmax(-1) @ v).squeeze(0).view(-1, 8),
    "viewed in pieces": lambda q, k, v: ((q @ k.mT).softmax(-1) @ v).mT.view(4, 8, 9),
    "keywords": lambda q, k, v: torch.transpose(input=(q @ torch.transpose(k, dim0=2, dim1=3)).softmax(-1) @ v, dim0=1, dim1=2),
}


def check(want: Any, got: Any) -> None:
    for one, other in zip(want, got, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("case", SOFTMAX)
def test_softmax_lookalikes(case: str) -> None:
    _, _, want, got = before_and_after(SOFTMAX[case], (X,), "cleanup")
    check(want, got)


@pytest.mark.parametrize("case", ATTENTION)
def test_attention_lookalikes(case: str) -> None:
    _, _, want, got = before_and_after(ATTENTION[case], (Q, K, V), "cleanup")
    check(want, got)


@pytest.mark.parametrize("limit", [0, 1])
def test_limit_counts_fusions(limit: int) -> None:
    def twice(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return (q @ k.mT).softmax(-1) @ v, (q @ k.mT * 0.5).softmax(-1) @ v

    captured, ctx, _, _ = before_and_after(twice, (Q, K, V), "cleanup", max_rewrites=limit)
    assert calls(captured.gm).count("lowbit.sdpa") == limit
    assert sum(bool(site.lowered_to) for site in ctx.sites) == limit
