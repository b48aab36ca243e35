"""Finding the layer that hurts: a spoiled weight is found first, and the list for a budget meets it through torch.compile."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import zoo
from helpers.broken import EAGER
from helpers.spoiled import spoiled
from lowbit_compiler.debug import accuracy
from lowbit_compiler.recipes import RECIPES, Recipe


def causal(**changes: Any) -> tuple[nn.Module, dict[str, Any]]:
    """A small language model and inputs with labels."""
    model, inputs = zoo.causal("Llama", **changes)()
    return model, {**inputs, "labels": inputs["input_ids"]}


def compiled(model: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    torch._dynamo.reset()
    return torch.compile(model, backend="lowbit", options=options)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("recipe", "name"), [("int8", "model.layers.1.mlp.down_proj"), ("int8-weight-only", "model.layers.0.self_attn.o_proj")]
)
def test_a_spoiled_weight_is_found_first(recipe: str, name: str) -> None:
    model, inputs = zoo.causal("Llama")()
    with spoiled(model.get_submodule(name).weight, 1.5):
        result = accuracy(model, inputs, recipe=recipe, budget=0.03, **EAGER)
    assert result.layers[0].name == name
    assert result.layers[0].broken
    assert not any(layer.broken for layer in result.layers[1:])
    assert "error above its bound" in str(result)
    assert result.ignored == [name]
    assert result.met


@pytest.mark.parametrize(("recipe", "inputs"), [("int4-weight-only", 64), ("int8", 4096), ("int8-weight-only", 4096)])
def test_a_spoiled_weight_that_its_product_hides(recipe: str, inputs: int) -> None:
    """Its error stays within the product's bound, and its effect is not the largest."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small, self.large = nn.Linear(inputs, 64), nn.Linear(inputs, 64)

        def forward(self, x: Tensor) -> Tensor:
            return self.small(x) * 0.001 + self.large(x)

    model = Two().eval()
    with spoiled(model.small.weight, 1.1):
        result = accuracy(model, (torch.randn(8, inputs),), recipe=recipe, budget=10.0, **EAGER)
    assert [(layer.name, layer.broken) for layer in result.layers] == [("small", True), ("large", False)]
    assert (result.layers[0].measured.tightness or 0.0) <= 1
    assert (result.layers[0].measured.effect or 0.0) < (result.layers[1].measured.effect or 0.0)


def test_ranked_by_what_each_does_alone() -> None:
    """Not by SQNR: all layers round alike, and what a scale of 3 does to the output is the largest effect, certificate or not."""
    model, inputs = causal()
    name = "model.layers.0.self_attn.v_proj"
    with spoiled(model.get_submodule(name).weight, 3.0):
        result = accuracy(model, inputs, recipe="int8-vector", budget=1.0, **EAGER)
    effects = {layer.name: layer.measured.effect or 0.0 for layer in result.layers}
    assert max(effects, key=lambda layer: effects[layer]) == name
    assert effects[name] > 10 * sorted(effects.values())[-2]
    worst = min(result.layers, key=lambda layer: layer.measured.sqnr or 0.0)
    assert worst.name == name


QUICK = ("int8", "llm-int8", "int4-weight-only", "nvfp4")
"""Of each way to compute one: rotated, columns beside it, weights alone, emulated. The others take three seconds each."""


@pytest.mark.parametrize(
    "recipe",
    [
        *(name if name in QUICK else pytest.param(name, marks=pytest.mark.model) for name in RECIPES),
        Recipe("rows", treatment="rows", head="same"),
    ],
    ids=str,
)
def test_the_list_meets_the_budget_when_fed_back(recipe: str | Recipe) -> None:
    model, inputs = zoo.causal("Llama", num_hidden_layers=1)()
    with torch.no_grad():
        want = model(**inputs).logits
        error = lambda run: float((run(**inputs).logits - want).norm() / want.norm())
        before = error(compiled(model, {"recipe": recipe, **EAGER}))
        result = accuracy(model, inputs, recipe=recipe, budget=before / 2, **EAGER)
        assert result.kind == "relative error"
        assert result.low.change == pytest.approx(before, rel=1e-2)
        assert result.met
        assert 0 < len(result.ignored) < len(result.layers)
        after = error(compiled(model, result.options))
    assert result.reached is not None
    assert after == pytest.approx(result.reached.change, rel=1e-6)
    assert after <= before / 2
    given = json.loads(result.to_json())
    assert given["ignore"] == result.ignored
    assert ("recipe" in given) == isinstance(recipe, str)


def test_a_recipe_of_the_users_own_is_not_written_as_ours() -> None:
    result = accuracy(nn.Linear(64, 64).eval(), (torch.randn(8, 64),), recipe=Recipe("int8", treatment="none"), budget=0.5, **EAGER)
    assert json.loads(result.to_json()) == {**EAGER, "ignore": []}


def test_perplexity_is_the_budget_where_there_is_a_loss() -> None:
    model, inputs = causal(num_hidden_layers=1)
    result = accuracy(model, inputs, recipe="int4-weight-only", budget=0.0005, **EAGER)
    assert result.kind == "perplexity"
    with torch.no_grad():
        assert result.before == pytest.approx(float(model(**inputs).loss.exp()), rel=1e-5)
        after = float(compiled(model, result.options)(**inputs).loss.exp())
    assert result.met
    assert after <= result.before * 1.0005


def test_already_within_the_budget() -> None:
    model, inputs = causal(num_hidden_layers=1)
    result = accuracy(model, inputs, budget=1.0, ignore=["lm_head"], **EAGER)
    assert result.met
    assert result.ignored == []
    assert result.options["ignore"] == ["lm_head"]
    assert "lm_head" not in [layer.name for layer in result.layers]
    assert len(result.layers) == 7


def test_budget_that_nothing_meets() -> None:
    model, inputs = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)).eval(), (torch.randn(9, 64),)
    asked: list[Any] = []

    def rising(output: Any) -> float:
        asked.append(output)
        return float(max(len(asked) - 1, 1))  # the float model is asked about twice

    result = accuracy(model, inputs, metric=rising, budget=0.0, **EAGER)
    assert result.kind == "metric"
    assert not result.met
    assert result.reached is None
    assert "not even all layers in float" in str(result)


def test_no_low_bit_product() -> None:
    result = accuracy(nn.Linear(8, 8).eval(), (torch.randn(4, 8),), **EAGER)
    assert result.layers == []
    assert result.met
    assert "nothing to rank" in str(result)
