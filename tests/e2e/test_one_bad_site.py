"""What cannot be rewritten costs its own site, never the whole graph."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.compiled import compiled, linears, reports_of
from helpers.graphs import TwoLinears
from lowbit_compiler.compile.attempts import MOST_ALIKE
from lowbit_compiler.errors import PassError
from lowbit_compiler.passes import lower, normalize, treat
from lowbit_compiler.passes.notes import notes
from lowbit_compiler.report import Report

RECIPES = ["int8", "llm-int8", "int8-weight-only", "int4-weight-only"]


def _run(fn: Callable[..., Any], *inputs: Tensor, recipe: str = "int8") -> tuple[Any, Any, Report]:
    with torch.no_grad():
        want = fn(*inputs)
        got, [report] = reports_of(lambda: compiled(fn, recipe)(*inputs))
    assert report.fallback == ""
    assert all(bool(site.lowered_to) != bool(site.reason) for site in report.sites)
    return got, want, report


def _close(got: Tensor, want: Tensor) -> bool:
    return bool((got.float() - want.float()).norm() < 0.3 * want.float().norm())  # int4 moves by 0.1


W = nn.Parameter(torch.randn(96, 96) / 10)
DROPPED: dict[str, Callable[[Tensor], object]] = {
    "linear": lambda h: F.linear(h, W),
    "linear and more": lambda h: F.linear(h[:, 0], W).tanh(),
    "product": lambda h: h @ W,
    "activations": lambda h: h @ h.mT,
    "softmax": lambda h: h.softmax(-1),
    "attention": lambda h: F.scaled_dot_product_attention(h, h, h),
    "convolution": lambda h: F.conv1d(h, W[:8, :8, None]),
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", DROPPED)
def test_results_that_nobody_reads(name: str, recipe: str) -> None:
    model = TwoLinears().requires_grad_(False)

    def fn(x: Tensor) -> Tensor:
        h = model.o(model.q(x).relu())
        DROPPED[name](h)
        return h

    got, want, report = _run(fn, torch.randn(2, 8, 96), recipe=recipe)
    assert _close(got, want)
    assert len(linears(report)) >= 2
    if name != "linear and more":  # which has a reader
        assert [site.reason for site in report.declined] == ["its result is not used"]


def test_an_unread_chain() -> None:
    """What is rewritten before sites are listed, and read by what nobody reads."""

    def fn(x: Tensor) -> Tensor:
        e = (x - x.amax(-1, keepdim=True)).exp()
        F.linear(e / e.sum(-1, keepdim=True), W)
        return x @ W

    got, want, report = _run(fn, torch.randn(2, 8, 96))
    assert _close(got, want)
    assert sorted((site.op, site.reason) for site in report.sites) == [
        ("linear", "its result is not used"),
        ("matmul", ""),
        ("softmax", "its result is not used"),
    ]


CONVOLUTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "conv1d": lambda x, w: F.conv1d(x, w, padding=1, groups=8),
    "conv1d by position": lambda x, w: F.conv1d(x, w, None, 1, 1, 1, 8),
    "conv2d": lambda x, w: F.conv2d(x[..., None], w[..., None], padding=(1, 0), stride=1, groups=8)[..., 0],
    "conv2d of ints": lambda x, w: F.conv2d(x[..., None], w[..., None], stride=1, padding=1, dilation=1, groups=8)[..., 1],
    "conv_transpose1d": lambda x, w: F.conv_transpose1d(x, w, stride=1, padding=1, groups=8),
    "same": lambda x, w: F.conv1d(x, w, padding="same", groups=8),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_numbers_for_lists(name: str) -> None:
    linear, kernel = nn.Linear(96, 96).requires_grad_(False), nn.Parameter(torch.randn(8, 1, 3))
    got, want, report = _run(lambda x: linear(CONVOLUTIONS[name](x, kernel)), torch.randn(2, 8, 96))
    assert _close(got, want)
    assert [(site.kind, site.decision) for site in report.sites] == [("convolution", "declined"), ("linear", "rewritten")]


AUTOCAST: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "w @ h": lambda h, x: W @ h,
    "h @ w": lambda h, x: h @ W,
    "einsum": lambda h, x: torch.einsum("tc,st->sc", h, W),
    "transposed": lambda h, x: h.t() @ W,
    "addmm": lambda h, x: torch.addmm(x, h, W),
    "addmm with beta": lambda h, x: torch.addmm(x, h, W, beta=0.5, alpha=2),
    "addmm of a bias": lambda h, x: torch.addmm(x[0], h, W),
    "and another product": lambda h, x: torch.addmm(x, h, W) @ h.t(),
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", AUTOCAST)
def test_autocast(name: str, recipe: str) -> None:
    linear = nn.Linear(96, 96).requires_grad_(False)

    def fn(x: Tensor) -> Tensor:
        return AUTOCAST[name](linear(x), x)

    with torch.autocast("cpu", torch.bfloat16):
        got, want, report = _run(fn, torch.randn(96, 96), recipe=recipe)
    assert (got.dtype, got.stride()) == (want.dtype, want.stride())
    assert _close(got, want)
    assert len(linears(report)) == 2 if recipe != "int4-weight-only" else linears(report)


def _fail_at(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, position: int) -> None:
    """Let one function of a pass fail where it is given the second linear of the captured graph."""
    monkeypatch.delenv("LOWBIT_VERIFY", raising=False)  # with which a failure raises
    whole = getattr(module, name)

    def fails(*args: Any, **kwargs: Any) -> Any:
        node = kwargs.get("like") or args[position]
        if notes(getattr(node, "node", node)).origin == "linear_1":  # of a product read by Lower, its linear
            raise ZeroDivisionError("on purpose")
        return whole(*args, **kwargs)

    monkeypatch.setattr(module, name, fails)


def _chain(x: Tensor, model: TwoLinears) -> Tensor:
    return model.k(model.o(model.q(x).relu()))


@pytest.mark.parametrize(("module", "name", "position"), [(treat, "emit", 0), (lower, "_lower", 2)])
def test_a_pass_that_fails_at_one_site(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, position: int) -> None:
    model = TwoLinears().requires_grad_(False)
    _fail_at(monkeypatch, module, name, position)
    got, want, report = _run(lambda x: _chain(x, model), torch.randn(8, 96))
    assert _close(got, want)
    assert [site.decision for site in report.sites] == ["rewritten", "declined", "rewritten"]
    [declined] = report.declined
    assert declined.reason == "internal error"
    assert "ZeroDivisionError: on purpose" in declined.detail
    assert any("internal error at %linear_1" in note for note in report.notes)


def test_a_fact_that_does_not_hold_at_one_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOWBIT_VERIFY", raising=False)
    model = TwoLinears().requires_grad_(False)
    emit = treat.emit
    forgets = lambda gm, op, x, *, like: x if notes(like).origin == "linear_1" else emit(gm, op, x, like=like)
    monkeypatch.setattr(treat, "emit", forgets)
    got, want, report = _run(lambda x: _chain(x, model), torch.randn(8, 96))
    assert _close(got, want)
    assert [site.reason for site in report.declined] == ["internal error"]
    assert "fact TREATED does not hold" in report.declined[0].detail


def test_a_pass_that_fails_before_sites_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.delenv("LOWBIT_VERIFY", raising=False)
    monkeypatch.setitem(normalize.RULES, torch.ops.aten.addmm.default, fails)
    linear = nn.Linear(96, 96).requires_grad_(False)
    got, want, report = _run(lambda x: torch.addmm(x, linear(x), W), torch.randn(8, 96))
    assert _close(got, want)
    assert [(site.op, site.reason) for site in report.sites] == [("linear", ""), ("addmm", "internal error")]


def test_a_pass_that_fails_at_every_site_is_not_tried_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise ZeroDivisionError("on purpose")

    tries = 0
    monkeypatch.delenv("LOWBIT_VERIFY", raising=False)
    monkeypatch.setattr(lower, "_lower", fails)
    layers = nn.Sequential(*(nn.Linear(96, 96) for _ in range(8))).requires_grad_(False)
    _, _, report = _run(lambda x: layers(x).softmax(-1) @ W, torch.randn(96, 96))
    assert [site.reason for site in report.declined] == ["internal error"] * 9
    assert tries == MOST_ALIKE + 1  # the last is the call of another function


def test_verifying_raises_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TwoLinears().requires_grad_(False)
    _fail_at(monkeypatch, treat, "emit", 0)
    monkeypatch.setenv("LOWBIT_VERIFY", "each")
    with torch.no_grad(), pytest.raises(Exception, match="on purpose") as caught:
        compiled(lambda x: _chain(x, model))(torch.randn(8, 96))
    assert isinstance(caught.value, PassError) or "PassError" in str(caught.value)
