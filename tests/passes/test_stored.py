"""Weights that are low-bit already are taken as they are: in a compiled model, an exported one, and whatever recipe it is compiled with."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.compiled import compiled, linears, reports_of
from helpers.prepared import inputs, stack
from lowbit_compiler.checkpoints.choice import choose
from lowbit_compiler.checkpoints.linear import StoredLinear
from lowbit_compiler.recipes import Recipe, find_recipe
from lowbit_compiler.runtime.weights import STORE

MIXED = Recipe("mixed", weights="int4", activations="float", group_size=32, sites=(("up", "int5"), ("last", "int8"), ("down", "int2")))
RECIPES = ["int8", "int8-vector", "llm-int8", "int8-switchable", "int4", "int4-int8", "int3", "ternary", "mxfp4", "nvfp4", MIXED]


def low_bit(model: nn.Module, recipe: Any) -> nn.Module:
    """Return a copy with its linears as they are stored."""
    model = copy.deepcopy(model)
    for one in choose(model, find_recipe(recipe)):
        made = StoredLinear.like(one.linear, one.scheme, "cpu")
        made.fill(one.tensors())
        made.bias = one.linear.bias
        model.set_submodule(one.names[0], made)
    return model


@torch.no_grad()
def run(model: nn.Module, recipe: Any, x: Tensor) -> tuple[Tensor, Any]:
    torch.compiler.reset()
    got, (report,) = reports_of(lambda: compiled(model, recipe)(x))
    return got, report


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return stack(1)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe if isinstance(recipe, str) else recipe.name)
def test_bit_for_bit_what_the_original_computes(model: nn.Module, recipe: Any) -> None:
    """Merged siblings, rotated weights whose K is padded, emulated formats and scales of a whole tensor too."""
    for dtype in (torch.float32, torch.bfloat16) if recipe in ("int8", "int4") else (torch.float32,):
        own, x = copy.deepcopy(model).to(dtype), inputs(1)[0].to(dtype)
        stored = low_bit(own, recipe)
        want, before = run(own, recipe, x)
        got, report = run(stored, recipe, x)
        assert torch.equal(got, want)
        assert [site.lowered_to for site in report.sites] == [site.lowered_to for site in before.sites]


def test_another_recipe_takes_the_weights_too(model: nn.Module) -> None:
    """What is done to activations is the recipe's where some op computes that; else they stay float. Nothing is quantized again."""
    x = inputs(1)[0]
    for stored, recipe, op in (
        ("int4", "int8", "linear_fu4"),
        ("int8-weight-only", "int8", "linear_s8s8"),
        ("int8", "llm-int8", "linear_s8s8_rotated"),
        ("int4-int8", "int8-vector", "linear_s8u4_nested_rotated"),
        ("int8", "int8-weight-only", "linear_fs8"),
        ("mxfp4", "int8", ""),
    ):
        low = low_bit(model, stored)
        got, report = run(low, recipe, x)
        assert {site.lowered_to for site in report.sites if site.kind == "linear"} == {op and f"lowbit::{op}"}, (stored, recipe)
        with torch.no_grad():
            want = low(x)
        assert (got - want).norm() / want.norm() < 0.02, (stored, recipe)


def test_weights_are_no_matter_of_price(model: nn.Module) -> None:
    """There is no float weight to multiply with: a product that float would win is rewritten all the same."""
    torch.compiler.reset()
    low = low_bit(model, "int4")
    with torch.no_grad():
        _, (report,) = reports_of(lambda: compiled(low, "int4", plan="measured")(inputs(1)[0]))
    assert len(linears(report)) == 5


def test_one_linear_in_two_places() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(64, 64)
            self.b = self.a

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)))

    model, x = Twice().eval().requires_grad_(False), torch.randn(3, 64)
    (one,) = choose(model, find_recipe("int4"))
    assert one.names == ("a", "b")
    low = low_bit(model, "int4")
    low.b = low.a
    assert torch.equal(run(low, "int4", x)[0], run(model, "int4", x)[0])


def test_a_write_is_noticed(model: nn.Module) -> None:
    low, x = low_bit(model, "int8"), inputs(1)[0]
    torch.compiler.reset()
    with torch.no_grad():
        call = compiled(low, "int8")
        before = call(x)
        low.last.weight_scale.mul_(2.0)
        assert not torch.equal(call(x), before)
        assert torch.equal(call(x), run(low, "int8", x)[0])


def test_nothing_is_kept_of_a_model_that_went(model: nn.Module) -> None:
    low = low_bit(model, "int8")
    before = STORE.nbytes()
    run(low, "int8", inputs(1)[0])
    assert STORE.nbytes() > before
    del low
    torch.compiler.reset()
    assert STORE.nbytes() <= before


def test_its_tensors_keep_their_dtypes(model: nn.Module) -> None:
    low = low_bit(model, "int4").half()
    assert {name: tensor.dtype for name, tensor in low.last.named_parameters()} == {
        "weight": torch.uint8, "weight_scale": torch.float16, "weight_minimum": torch.float16, "weight_outer": torch.float32,
        "bias": torch.float16,
    }  # fmt: skip
    assert low.to("meta").last.weight_outer.is_meta
