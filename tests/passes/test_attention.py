"""Every spelling of attention becomes one call where it pays; what somebody else reads stays."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.graphs import before_and_after, calls, capture, context, rerun, run_until
from lowbit_compiler.passes.attention import FuseAttention
from lowbit_compiler.passes.calls import Cost
from lowbit_compiler.passes.contract import Target

torch.manual_seed(0)
Q, K, V = torch.randn(2, 4, 9, 16), torch.randn(2, 4, 17, 16), torch.randn(2, 4, 17, 8)
KEEP = torch.rand(2, 1, 9, 17) > 0.3
KEEP[..., 0] = True
HIDDEN = KEEP.clone()
HIDDEN[0, 0, 3] = False  # a row that sees nothing
ADDED = torch.randn(2, 1, 9, 17)
BIAS = torch.randn(1, 4, 9, 17)
LOWEST = torch.finfo(torch.float32).min
SDPA = "aten.scaled_dot_product_attention"


def scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-1, -2)


def in_place(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = scores(q, k)
    s += BIAS.to(q.dtype)
    s /= 4
    return s.softmax(-1) @ v


def in_place_scaled_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = scores(q, k)
    s *= 0.25
    s += BIAS.to(q.dtype)
    return s.softmax(-1) @ v


def eager(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As transformers writes it."""
    weights = torch.matmul(q, k.transpose(2, 3)) * 0.25 + ADDED.to(q.dtype)[:, :, :, : k.shape[-2]]
    weights = F.softmax(weights, dim=-1, dtype=torch.float32).to(q.dtype)
    weights = F.dropout(weights, p=0.1, training=False)
    return torch.matmul(weights, v).transpose(1, 2).contiguous()


def heads_as_batch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.reshape(8, -1, x.shape[-1]) for x in (q, k, v))
    return torch.bmm(F.dropout(torch.bmm(q * 0.25, k.mT).softmax(2), 0.0), v)


def baddbmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.reshape(8, -1, x.shape[-1]) for x in (q, k, v))
    bias = BIAS[0, :, :1].repeat(2, 1, 1).to(q.dtype)
    return torch.baddbmm(bias, q, k.transpose(1, 2), beta=1, alpha=0.3).softmax(-1) @ v


SPELLINGS: dict[str, Callable[..., Tensor]] = {
    "bare": lambda q, k, v: scores(q, k).softmax(-1) @ v,
    "multiplied": lambda q, k, v: (scores(q, k) * 0.25).softmax(-1) @ v,
    "divided": lambda q, k, v: (scores(q, k) / math.sqrt(16)).softmax(-1).matmul(v),
    "query scaled": lambda q, k, v: scores(q * 0.25, k).softmax(-1) @ v,
    "both scaled": lambda q, k, v: scores(q * 0.5, k / 2).softmax(-1) @ v,
    "mT": lambda q, k, v: (q @ k.mT).softmax(-1) @ v,
    "permuted": lambda q, k, v: (q @ k.permute(0, 1, 3, 2)).softmax(-1) @ v,
    "stored transposed": lambda q, k, v: (q @ k.permute(3, 0, 1, 2).permute(1, 2, 0, 3)).softmax(-1) @ v,
    "added": lambda q, k, v: (scores(q, k) * 0.25 + ADDED.to(q.dtype)).softmax(-1) @ v,
    "added first": lambda q, k, v: (BIAS.to(q.dtype).expand(2, 4, 9, 17) + scores(q, k)).softmax(-1) @ v,
    "added twice": lambda q, k, v: (scores(q, k) + BIAS.to(q.dtype) + ADDED.to(q.dtype)).softmax(-1) @ v,
    "added and filled": lambda q, k, v: (scores(q, k) + BIAS.to(q.dtype)).masked_fill(~KEEP, -math.inf).softmax(-1) @ v,
    "filled": lambda q, k, v: scores(q, k).masked_fill(~KEEP, -math.inf).softmax(-1) @ v,
    "filled, finite": lambda q, k, v: scores(q, k).masked_fill(~HIDDEN, -6e4).softmax(-1) @ v,
    "where": lambda q, k, v: torch.where(KEEP, scores(q, k), -math.inf).softmax(-1) @ v,
    "where, full": lambda q, k, v: torch.where(HIDDEN, scores(q, k), torch.full([], torch.finfo(q.dtype).min, dtype=q.dtype)).softmax(-1) @ v,
    "in place": in_place_scaled_first,
    "eager": eager,
    "heads as batch": heads_as_batch,
    "baddbmm": baddbmm,
    "one key head": lambda q, k, v: scores(q, k[:, :1]).softmax(-1) @ v[:, :1],
    "upcast": lambda q, k, v: scores(q, k).float().softmax(-1).type_as(v) @ v,
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", SPELLINGS)
def test_becomes_one_call(case: str, dtype: torch.dtype) -> None:
    fn = SPELLINGS[case]
    q, k, v = (x.to(dtype) for x in (Q, K, V))
    captured, ctx, want, got = before_and_after(fn, (q, k, v), "attention")
    assert calls(captured.gm).count(SDPA) == 1
    assert not {"aten.matmul", "aten.bmm", "aten.baddbmm", "aten.softmax", "dropout", "mul", "truediv"} & set(calls(captured.gm))
    assert got[0].dtype is want[0].dtype
    assert got[0].shape == want[0].shape
    bound = _bound(dtype)
    exact = want[0].double() if case == "upcast" else fn(q.double(), k.double(), v.double())
    assert ((got[0].double() - exact).abs() <= bound).all()
    assert rerun(FuseAttention(), captured, ctx) == 0
    run_until(captured, ctx)
    (site,) = ctx.sites
    assert (site.kind, site.lowered_to) == ("attention", "sdpa")


def _bound(dtype: torch.dtype) -> float:
    """Scores up to 30 rounded to ``dtype`` (the sum of 16 products, a bias) move weights by as much, relative."""
    return 64 * torch.finfo(dtype).eps * float(V.abs().max())


@pytest.mark.parametrize("case", SPELLINGS)
def test_lowered(case: str) -> None:
    captured, _, want, got = before_and_after(SPELLINGS[case], (Q, K, V), "cleanup")
    assert calls(captured.gm).count("lowbit.sdpa") == 1
    assert SDPA not in calls(captured.gm)
    assert ((got[0] - want[0]).abs() <= _bound(torch.float32)).all()


def weights_returned(q: Tensor, k: Tensor, v: Tensor) -> Any:
    weights = scores(q, k).softmax(-1)
    return weights @ v, weights


def scores_returned(q: Tensor, k: Tensor, v: Tensor) -> Any:
    s = scores(q, k)
    return s.softmax(-1) @ v, s


def keys_written(q: Tensor, k: Tensor, v: Tensor) -> Any:
    k = k.clone()
    s = scores(q, k)
    k.zero_()
    return s.softmax(-1) @ v


STAYS: dict[str, Callable[..., Any]] = {
    "weights returned": weights_returned,
    "scores returned": scores_returned,
    "keys written": keys_written,
    "dropout": lambda q, k, v: F.dropout(scores(q, k).softmax(-1), 0.5, True) @ v,
    "another dim": lambda q, k, v: scores(q, k).softmax(-2) @ v,
    "log": lambda q, k, v: scores(q, k).log_softmax(-1) @ v,
    "mask scaled": in_place,
    "slight fill": lambda q, k, v: scores(q, k).masked_fill(~KEEP, -5.0).softmax(-1) @ v,
    "learned scale": lambda q, k, v: (scores(q, k) * q.sum()).softmax(-1) @ v,
    "capped": lambda q, k, v: ((scores(q, k) / 50).tanh() * 50).softmax(-1) @ v,
    "broadcast batch": lambda q, k, v: scores(q, k[:1]).softmax(-1) @ v,
    "float64": lambda q, k, v: scores(q.double(), k.double()).softmax(-1) @ v.double(),
    "two dimensions": lambda q, k, v: scores(q[0, 0], k[0, 0]).softmax(-1) @ v[0, 0],
    "wide mask": lambda q, k, v: (scores(q, k) + ADDED.double()).softmax(-1) @ v.double(),
}


@pytest.mark.parametrize("case", STAYS)
def test_stays(case: str) -> None:
    captured, _ = capture(STAYS[case], Q, K, V)
    before = calls(captured.gm)
    run_until(captured, context(captured), "attention")
    assert calls(captured.gm) == before


def test_grouped_heads_are_not_expanded() -> None:
    def fn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (x[:, :, None].expand(2, 2, 2, 17, x.shape[-1]).reshape(2, 4, 17, x.shape[-1]) for x in (k, v))
        return (scores(q, k) * 0.25).softmax(-1) @ v

    captured, ctx, want, got = before_and_after(fn, (Q, K[:, :2], V[:, :2]), "cleanup")
    assert calls(captured.gm) == ["lowbit.sdpa", "aten.clone"]
    assert ((got[0] - want[0]).abs() <= _bound(torch.float32)).all()
    assert ctx.sites[0].detail == "2 query heads a key head"


@pytest.mark.parametrize(("theirs", "left"), [(2.0, ["lowbit.sdpa", "aten.clone"]), (0.96, None)])
def test_only_where_it_pays(theirs: float, left: list[str] | None) -> None:
    captured, _ = capture(SPELLINGS["eager"], Q, K, V)
    before = calls(captured.gm)
    ctx = context(captured, costs=lambda call: Cost(1.0, theirs))
    run_until(captured, ctx)
    if left is None:
        assert calls(captured.gm) == before
        assert [site.kind for site in ctx.sites] == ["matmul", "softmax", "matmul"]
        assert ctx.sites[1].detail.endswith("as one attention: slower here, lowbit 1000.0 ms, torch 960.0 ms")
    else:
        assert "lowbit.sdpa" in calls(captured.gm)
        assert ctx.sites[0].detail.startswith("2.0x torch")


def test_what_is_asked_is_what_is_lowered() -> None:
    """The planner is asked twice, before fusing and after, for the same attention."""
    asked = []

    def costs(call: Any) -> Cost:
        asked.append(call)
        return Cost(1.0, 2.0)

    for case, fn in SPELLINGS.items():
        asked.clear()
        captured, _ = capture(fn, Q, K, V)
        run_until(captured, context(captured, costs=costs))
        first, second = asked
        assert first == second, case


def test_ignored_and_without_kernels() -> None:
    captured, _ = capture(SPELLINGS["eager"], Q, K, V)
    before = calls(captured.gm)
    ctx = context(captured, ignore=("re:^$",), known_names=frozenset({""}))
    run_until(captured, ctx, "attention")
    assert calls(captured.gm) == before
    captured, _ = capture(SPELLINGS["eager"], Q, K, V)
    ctx = context(captured)
    ctx.target = Target(has_kernels=False)
    run_until(captured, ctx, "attention")
    assert calls(captured.gm) == before


def test_on_another_device() -> None:
    def fn(q: Tensor, k: Tensor, v: Tensor) -> Any:
        return (scores(q, k) * 0.25).softmax(-1) @ v, F.scaled_dot_product_attention(q, k, v)

    captured, _ = capture(fn, *(x.to("meta") for x in (Q, K, V)))
    before = calls(captured.gm)
    ctx = context(captured)
    run_until(captured, ctx)
    assert calls(captured.gm) == before
    details = {site.kind: site.detail for site in ctx.sites}
    assert details["softmax"] == details["attention"] == "no kernels for meta tensors; accepted: cpu"


def test_query_padding_is_uniform_or_zero() -> None:
    """A row that sees nothing: uniform under a finite fill, zeros under -Inf as in torch's attention."""
    _, _, want, got = before_and_after(SPELLINGS["filled, finite"], (Q, K, V), "cleanup")
    torch.testing.assert_close(got[0][0, :, 3], want[0][0, :, 3])
    _, _, _, got = before_and_after(lambda q, k, v: scores(q, k).masked_fill(~HIDDEN, -math.inf).softmax(-1) @ v, (Q, K, V), "cleanup")
    assert (got[0][0, :, 3] == 0).all()
