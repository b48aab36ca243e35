"""Every product, softmax, attention and convolution has a row with module, shape and, where it can't be taken, a reason."""

import torch
import torch.nn.functional as F
from torch import nn

from helpers.graphs import TwoLinears, before_and_after, calls, capture, context, run_until
from lowbit_compiler.passes.site import Reason, Role


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = TwoLinears()
        self.conv = nn.Conv1d(7, 7, 3, padding=1)
        self.wide = nn.Linear(96, 64, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y, _ = self.inner(x)
        scores = (y @ y.mT).softmax(-1)
        heads = y.unsqueeze(1)
        attended = F.scaled_dot_product_attention(heads, heads, heads)
        return scores, attended, self.conv(x), self.wide(x.double()), x.log_softmax(-1), F.linear(x, x[0, :5])


def test_rows() -> None:
    captured, ctx, *_ = before_and_after(Everything(), (torch.randn(2, 7, 96),), "find")
    rows = [(site.kind, site.module, site.reason) for site in ctx.sites]
    assert rows == [
        ("linear", "inner.q", None),
        ("linear", "inner.o", None),
        ("linear", "inner.k", None),
        ("matmul", "", Reason.NON_CONST_WEIGHT),
        ("softmax", "", None),
        ("attention", "", None),
        ("convolution", "conv", Reason.UNSUPPORTED_OP),
        ("linear", "wide", Reason.UNSUPPORTED_DTYPE),
        ("softmax", "", None),
        ("linear", "", Reason.NON_CONST_WEIGHT),
    ]
    assert ctx.sites[0].found.shape == "14 x 96 -> 64"
    assert ctx.sites[0].found.parameters == ("inner.q.weight",)
    assert len(calls(captured.gm)) > len(rows)


def test_roles() -> None:
    """Of each operand in order; what is added to a product has none, and what is no product neither."""
    w, b = nn.Parameter(torch.randn(96, 64)), nn.Parameter(torch.randn(64))
    batch = nn.Parameter(torch.randn(2, 64, 8))

    def fn(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = torch.addmm(b, x, w)
        return y, w.t() @ w, torch.addmm(x, x, x[:96, :96]), torch.einsum("bi,bij->bj", y[:2], batch), y.softmax(-1)

    _, ctx, *_ = before_and_after(fn, (torch.randn(96, 96),), "find")
    c, a = Role.CONSTANT, Role.ACTIVATION
    assert [(site.found.op, site.found.roles) for site in ctx.sites] == [
        ("addmm", (a, c)),
        ("matmul", (c, c)),
        ("addmm", (a, a)),
        ("einsum 'bi,bij->bj'", (a, c)),
        ("softmax", ()),
    ]
    assert [site.found.constant for site in ctx.sites] == [False, True, False, False, False]


def test_find_changes_nothing() -> None:
    captured, _ = capture(TwoLinears(), torch.randn(3, 96))
    ctx = context(captured)
    run_until(captured, ctx, "normalize")
    text = str(captured.gm.graph)
    ctx.sites.clear()
    run_until(captured, ctx, "find")
    assert str(captured.gm.graph) == text


def test_symbolic_rows() -> None:
    captured, _ = capture(TwoLinears(), torch.randn(5, 96), dynamic=True)
    ctx = context(captured)
    run_until(captured, ctx, "find")
    assert ctx.sites[0].found.shape.endswith(" x 96 -> 64")
    assert ctx.sites[0].found.k == 96
