"""Every spelling of a softmax becomes one call; what somebody else reads, or what only looks like one, stays."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.graphs import before_and_after, calls, capture, context, rerun, run_until
from lowbit_compiler.passes.softmax import CanonicalSoftmax

aten = torch.ops.aten
torch.manual_seed(0)
X = torch.randn(3, 5, 7) * 8


def unsqueezed(x: Tensor) -> Tensor:
    e = torch.exp(x - x.amax(-1).unsqueeze(2))
    return e / e.sum(-1).unsqueeze(-1)


def functions(x: Tensor) -> Tensor:
    e = torch.exp(torch.sub(x, torch.amax(x, 1, True)))
    return torch.div(e, torch.sum(e, 1, True))


def methods(x: Tensor) -> Tensor:
    e = x.subtract(x.amax(1, True)).exp()
    return e.true_divide(e.sum(1, True))


def aten_calls(x: Tensor) -> Tensor:
    e = aten.exp.default(aten.sub.Tensor(x, aten.amax.default(x, [2], True)))
    return aten.div.Tensor(e, aten.sum.dim_IntList(e, [2], True))


def shifted(x: Tensor, dim: int | tuple[int, ...] = -1) -> Tensor:
    return torch.exp(x - x.amax(dim, keepdim=True))


def over(e: Tensor, dim: int = -1) -> Tensor:
    return e / e.sum(dim, keepdim=True)


SPELLINGS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "amax": ("softmax", lambda x: over(torch.exp(x - x.amax(-1, keepdim=True)))),
    "amax of a list": ("softmax", lambda x: over((x - torch.amax(x, dim=(1,), keepdim=True)).exp(), 1)),
    "max [0]": ("softmax", lambda x: over(torch.exp(x - x.max(-1, keepdim=True)[0]))),
    "max values": ("softmax", lambda x: over(torch.exp(x - torch.max(x, dim=2, keepdim=True).values))),
    "detached maximum": ("softmax", lambda x: over(torch.exp(x - x.max(dim=-1, keepdim=True)[0].detach()))),
    "maximum of detached": ("softmax", lambda x: over(torch.exp(x - x.detach().amax(-1, keepdim=True)))),
    "unsqueezed": ("softmax", unsqueezed),
    "functions": ("softmax", functions),
    "methods": ("softmax", methods),
    "aten": ("softmax", aten_calls),
    "logsumexp": ("softmax", lambda x: torch.exp(x - torch.logsumexp(x, 0, keepdim=True))),
    "logsumexp, log": ("log_softmax", lambda x: x - x.logsumexp(1, True)),
    "log of softmax": ("log_softmax", lambda x: x.softmax(1).log()),
    "log of spelled softmax": ("log_softmax", lambda x: torch.log(over(torch.exp(x - x.amax(-1, True))))),
    "log of wide softmax": ("log_softmax", lambda x: torch.softmax(x, 1, dtype=torch.float32).log()),
    "exp of log-softmax": ("softmax", lambda x: x.log_softmax(1).exp()),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", SPELLINGS)
def test_becomes_one_call(case: str, dtype: torch.dtype) -> None:
    op, fn = SPELLINGS[case]
    x = X.to(dtype)
    captured, ctx, want, got = before_and_after(fn, (x,), "softmax")
    assert calls(captured.gm) == [f"aten.{op}"]
    assert got[0].dtype is want[0].dtype
    exact = fn(x.double()) if "wide" not in case else x.double().softmax(1).log()
    magnitude = x.double().abs().max() if op == "log_softmax" else exact.clamp_min(1e-3)  # a logarithm is a difference of two scores
    bound = 4 * torch.finfo(dtype).eps * magnitude
    assert ((got[0].double() - exact).abs() <= bound).all()
    assert rerun(CanonicalSoftmax(), captured, ctx) == 0


def test_special_values() -> None:
    x = X.clone()
    x[0, 0, 0], x[0, 1, 1], x[0, 2], x[1, 0, 0] = torch.nan, torch.inf, -torch.inf, -torch.inf
    _, _, want, got = before_and_after(SPELLINGS["amax"][1], (x,), "softmax")
    assert torch.equal(got[0].isnan(), want[0].isnan())
    torch.testing.assert_close(got[0], want[0], equal_nan=True)


def read_twice(x: Tensor) -> Any:
    e = torch.exp(x - x.amax(-1, keepdim=True))
    return over(e), e


def maximum_read(x: Tensor) -> Any:
    m = x.amax(-1, keepdim=True)
    return over(torch.exp(x - m)), m


def logarithm_of_a_result(x: Tensor) -> Any:
    p = x.softmax(-1)
    return p, p.log()


def written_between(x: Tensor) -> Any:
    y = x.clone()
    lse = y.logsumexp(-1, True)
    y.add_(1)
    return y - lse


def another_sum(x: Tensor) -> Tensor:
    e = shifted(x)
    return e / e.sum(1, keepdim=True)


def two_dims(x: Tensor) -> Tensor:
    e = shifted(x, (1, 2))
    return e / e.sum((1, 2), keepdim=True)


def smoothed(x: Tensor) -> Tensor:
    e = shifted(x)
    return e / (e.sum(-1, True) + 1e-6)


def wide_sum(x: Tensor) -> Tensor:
    e = shifted(x)
    return e / e.sum(-1, True, dtype=torch.float64)


STAYS: dict[str, Callable[[Tensor], Any]] = {
    "read twice": read_twice,
    "maximum read": maximum_read,
    "softmax read": logarithm_of_a_result,
    "written between": written_between,
    "no maximum": lambda x: over(torch.exp(x)),
    "another dim": lambda x: over(torch.exp(x - x.amax(1, keepdim=True)), 2),
    "another sum": another_sum,
    "two dims": two_dims,
    "of something else": lambda x: torch.exp(x - (2 * x).logsumexp(1, True)),
    "smoothed": smoothed,
    "alpha": lambda x: torch.sub(x, x.logsumexp(1, True), alpha=2),
    "wide sum": wide_sum,
    "log1p": lambda x: x.softmax(-1).log1p(),
    "constant over": lambda x: 1 / x.sum(-1, keepdim=True),
}


@pytest.mark.parametrize("case", STAYS)
def test_stays(case: str) -> None:
    captured, _ = capture(STAYS[case], X)
    before = calls(captured.gm)
    run_until(captured, context(captured), "softmax")
    assert calls(captured.gm) == before


def test_finite_where_the_logarithm_vanished() -> None:
    x = torch.tensor([[0.0, -200.0]])
    _, _, want, got = before_and_after(lambda x: x.softmax(-1).log(), (x,), "softmax")
    assert want[0][0, 1] == -math.inf
    assert got[0][0, 1] == -200
