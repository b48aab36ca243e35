"""Siblings become one product; their users see the same values."""

from collections.abc import Callable

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from helpers.graphs import TwoLinears, before_and_after, calls, rerun
from lowbit_compiler.passes.merge import MergeSiblings


def test_siblings() -> None:
    x = torch.randn(2, 3, 96)
    captured, ctx, want, got = before_and_after(TwoLinears(), (x,), "merge")
    assert calls(captured.gm) == [
        "aten.cat",
        "aten.cat",
        "aten.linear",
        "aten.split_with_sizes",
        "getitem",
        "getitem",
        "relu",
        "aten.linear",
        "relu",
    ]
    assert ctx.sites[0].node is ctx.sites[2].node
    assert ctx.sites[0].became.merged_with == ("k",)
    # cuBLAS-free float32 sums of the same K terms, perhaps blocked differently
    for a, b in zip(got, want, strict=True):
        assert (a - b).abs().max() <= 4 * torch.finfo(torch.float32).eps * 97 * x.abs().max()
    assert rerun(MergeSiblings(), captured, ctx) == 0


def _view(model: TwoLinears, x: torch.Tensor) -> torch.Tensor:
    return model.q(x).view(2, 3 * 64).sum() + model.k(x).sum()


def _returned(model: TwoLinears, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return model.q(x), model.k(x)


@pytest.mark.parametrize("fn", [_view, _returned])
def test_users_that_need_dense_rows_get_them(fn: object) -> None:
    model = TwoLinears()
    captured, _, want, got = before_and_after(lambda x: fn(model, x), (torch.randn(2, 3, 96),), "merge")  # type: ignore[operator]
    assert "aten.clone" in calls(captured.gm)
    for a, b in zip(got, want, strict=True):
        assert a.stride() == b.stride()


def test_transposed_weight_of_a_later_sibling_is_hoisted() -> None:
    a, b = nn.Parameter(torch.randn(96, 64)), nn.Parameter(torch.randn(96, 32))
    captured, *_ = before_and_after(lambda x: (x @ a, x.relu() @ b, x @ b), (torch.randn(4, 96),), "merge")
    assert calls(captured.gm).count("aten.linear") == 2


def _with_bias_and_without(model: TwoLinears, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return model.q(x), torch.nn.functional.linear(x, model.k.weight)


def _written_between(model: TwoLinears, x: torch.Tensor, write: Callable[[torch.Tensor], object]) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone()
    q = model.q(x)
    write(x)
    return q, model.k(x)


def _written_under_a_view(model: TwoLinears, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone()
    view = x.view(2, 2, 96)
    q = model.q(view)
    x.add_(1)
    return q, model.k(view)


def _written_in_a_checkpoint(model: TwoLinears, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    write = lambda x: x.add_(1)
    return torch.utils.checkpoint.checkpoint(_written_between, model, x, write, use_reentrant=False)  # type: ignore[no-any-return]


APART: dict[str, Callable[[TwoLinears, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]] = {
    "with a bias and without": _with_bias_and_without,
    "written": lambda model, x: _written_between(model, x, lambda x: x.add_(1)),
    "written by position": lambda model, x: _written_between(model, x, lambda x: torch.nn.functional.leaky_relu(x, 0.1, True)),
    "written in a list": lambda model, x: _written_between(model, x, lambda x: torch._foreach_add_([x], 1.0)),
    "written by a method": lambda model, x: _written_between(model, x, lambda x: x.__iadd__(1)),
    "written under a view": _written_under_a_view,
    "written in a checkpoint": _written_in_a_checkpoint,
}


@pytest.mark.parametrize("case", APART)
def test_stays_apart(case: str) -> None:
    model = TwoLinears()
    captured, _, want, got = before_and_after(lambda x: APART[case](model, x), (torch.randn(4, 96),), "merge")
    assert calls(captured.gm).count("aten.linear") == 2
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_user_that_cannot_be_tried() -> None:
    """A branch takes graphs as arguments."""
    model = TwoLinears()

    def fn(x: torch.Tensor) -> torch.Tensor:
        q = torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (model.q(x),))
        return q + model.k(x).sum()  # type: ignore[no-any-return]

    captured, *_ = before_and_after(fn, (torch.randn(4, 96),), "merge")
    assert "aten.split_with_sizes" in calls(captured.gm)


def test_other_plans_stay_apart() -> None:
    captured, *_ = before_and_after(TwoLinears(), (torch.randn(4, 96),), "merge", ignore=("k",))
    assert calls(captured.gm).count("aten.linear") == 3
