"""Decisions follow the recipe, the user's ignore list and the limits; each decline has its reason."""

import pytest
import torch
from torch import nn

from helpers.graphs import TwoLinears, before_and_after, capture, context, run_until
from lowbit_compiler.errors import OptionError
from lowbit_compiler.passes.plan import matches
from lowbit_compiler.passes.site import Reason
from lowbit_compiler.recipes import RECIPES, Recipe


class Head(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(5000, 64)
        self.body = nn.Linear(64, 64)
        self.head = nn.Linear(64, 5000, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.embed(ids)))


def test_head_tied_to_a_table_passed_by_name() -> None:
    model = Head(True)
    _, ctx, *_ = before_and_after(
        lambda ids: model.head(nn.functional.embedding(ids, weight=model.embed.weight)), (torch.arange(6),), "plan", "llm-int8"
    )
    assert ctx.sites[0].reason is Reason.OUTPUT_HEAD


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("recipe", RECIPES)
def test_head(recipe: str, tied: bool) -> None:
    _, ctx, *_ = before_and_after(Head(tied), (torch.arange(6),), "plan", recipe)
    body, head = ctx.sites
    assert body.plan is not None
    wanted = RECIPES[recipe].head
    if wanted == "float":
        assert head.reason is Reason.OUTPUT_HEAD
    elif wanted == "weight-only":
        assert head.plan.op == "linear_fs8"
    else:
        assert head.plan.op == body.plan.op


def test_small_and_long() -> None:
    model = nn.Sequential(nn.Linear(16, 64), nn.Linear(64, 8), nn.Linear(8, 133_145 // 8), nn.Linear(64, 64))

    def forward(x: torch.Tensor) -> torch.Tensor:
        return model[1](model[0](x)), model[3](model[0](x))

    _, ctx, *_ = before_and_after(forward, (torch.randn(3, 16),), "plan")
    assert [site.reason for site in ctx.sites].count(Reason.TOO_SMALL) == 3
    weight = nn.Parameter(torch.randn(16, 133_145))
    _, ctx, *_ = before_and_after(lambda x: x @ weight.t(), (torch.randn(1, 133_145),), "plan")
    assert ctx.sites[0].reason is Reason.TOO_LONG


@pytest.mark.parametrize(
    ("pattern", "declined"), [("q", ["q"]), ("q.weight", ["q"]), ("re:^[qk]$", ["q", "k"]), ("re:.*weight", ["q", "o", "k"])]
)
def test_ignore(pattern: str, declined: list[str]) -> None:
    _, ctx, *_ = before_and_after(TwoLinears(), (torch.randn(3, 96),), "plan", ignore=(pattern,))
    assert [site.module for site in ctx.sites if site.reason is Reason.FILTERED] == declined


def test_ignore_that_matches_nothing() -> None:
    captured, _ = capture(TwoLinears(), torch.randn(3, 96))
    ctx = context(captured, ignore=("lm_haed",))
    with pytest.raises(OptionError, match="ignore 'lm_haed' matches no module or parameter"):
        run_until(captured, ctx, "plan")


def test_limit() -> None:
    _, ctx, *_ = before_and_after(TwoLinears(), (torch.randn(3, 96),), "plan", max_rewrites=1)
    assert [site.reason for site in ctx.sites] == [None, Reason.LIMIT, Reason.LIMIT]


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("lm_head", "lm_head", True),
        ("mlp.down_proj", "model.layers.0.mlp.down_proj", True),
        ("layers.1", "model.layers.11.mlp", False),
        ("down", "model.down_proj", False),
        ("re:layers\\.[01]\\.", "model.layers.1.mlp", True),
    ],
)
def test_matches(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected


def test_more_dimensions_than_an_op_takes() -> None:
    x = torch.randn(*[1] * 64, 3, 64)
    linear = nn.Linear(64, 64)
    _, ctx, *_ = before_and_after(lambda x: torch.softmax(linear(x), -1), (x,), "plan")
    assert [(site.reason, site.detail) for site in ctx.sites] == [(Reason.UNSUPPORTED_OP, "66 dimensions; up to 64")] * 2


def test_words_of_their_own() -> None:
    """The first pattern that names a product decides, before the head's word; the others have the recipe's."""
    sites = (("re:^k$", "int6"), ("k", "int3"), ("o.weight", "int8"))
    recipe = Recipe("mixed", weights="int4", activations="float", group_size=32, sites=sites)
    _, ctx, *_ = before_and_after(TwoLinears(), (torch.randn(3, 96),), "plan", recipe)
    words = {site.module: site.plan for site in ctx.sites}
    assert words == {"q": recipe.plan, "k": recipe.plan_with("int6"), "o": recipe.plan_with("int8")}
    recipe = Recipe("head", weights="int4", activations="float", sites=(("head", "int5"),))
    _, ctx, *_ = before_and_after(Head(True), (torch.arange(6),), "plan", recipe)
    assert [site.plan for site in ctx.sites] == [recipe.plan, recipe.plan_with("int5")]


def test_a_word_for_nothing() -> None:
    captured, _ = capture(TwoLinears(), torch.randn(3, 96))
    ctx = context(captured, Recipe("mixed", weights="int4", activations="float", sites=(("qq", "int8"),)))
    with pytest.raises(OptionError, match="recipe 'mixed': sites: 'qq' matches no module or parameter"):
        run_until(captured, ctx, "plan")
