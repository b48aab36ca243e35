"""Float activations that are rotated in front of a weight-only op: a call of its own, and the op multiplies what it returns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import bounds
from helpers.compiled import compiled, reports_of
from lowbit_compiler.debug import measure
from lowbit_compiler.recipes import Recipe
from lowbit_compiler.runtime.products import Plan
from lowbit_compiler.runtime.treatments.treatment import at_once

RECIPES = {
    "int8": Recipe("int8 rotated", weights="int8", activations="float", treatment="rotation"),
    "int4": Recipe("int4 rotated", weights="int4-symmetric", activations="float", treatment="rotation", group_size=32),
}
every = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
OPS = {"int8 rotated": "linear_fs8", "int4 rotated": "linear_fs4"}


def exactly(plan: Plan, layer: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the float64 product of the rotated operands, and the bound on float32 sums of it."""
    weight = plan.w.dequantize(plan.w.quantize(plan.treatment.weight(at_once, layer.weight.detach().float()))).double()
    return bounds.linear_float(plan.treatment.activation(at_once, x.float())[0], weight, layer.bias, x.dtype)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("k", [96, 128])
def test_the_op_multiplies_what_is_rotated(recipe: Recipe, dtype: torch.dtype, k: int) -> None:
    layer, x = nn.Linear(k, 64).to(dtype), torch.randn(7, k).to(dtype)
    with torch.no_grad():
        got, (report,) = reports_of(lambda: compiled(layer, recipe)(x))
    assert [site.lowered_to for site in report.sites] == [f"lowbit::{OPS[recipe.name]}"]
    assert got.dtype is dtype
    bounds.assert_within(got, *exactly(recipe.plan, layer, x))


@every
def test_certificates_are_of_the_rotated_operands(recipe: Recipe) -> None:
    report = measure(nn.Linear(96, 64), torch.randn(7, 96), recipe=recipe, plan="always", remainder="eager")
    (site,) = report.sites
    assert site.measured is not None
    assert 0.0 < (site.measured.tightness or 0.0) <= 1.0
    assert 0.0 < (site.measured.weight_tightness or 0.0) <= 1.0


@every
def test_timed_with_the_rotation(recipe: Recipe) -> None:
    layer, x = nn.Linear(96, 64), torch.randn(7, 96)
    with torch.no_grad():
        _, (report,) = reports_of(lambda: compiled(layer, recipe, plan="measured")(x))
    assert any("of rotation" in call for call in report.timed)


@every
@pytest.mark.parametrize("form", ["integer", "qdq"])
def test_in_a_file(tmp_path: Path, recipe: Recipe, form: str) -> None:
    pytest.importorskip("onnxscript")
    from helpers.onnx_files import Exported

    layer, x = nn.Linear(96, 64).eval(), torch.randn(7, 96)
    exported: Any = Exported(tmp_path, layer, x, recipe=recipe, form=form)
    (got,) = exported.run(x)
    bounds.assert_within(got, *exactly(recipe.plan, layer, x))
