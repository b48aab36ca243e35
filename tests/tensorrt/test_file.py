"""The file that an engine is built from: codes in the types of TensorRT-RTX, before DequantizeLinear alone, with the values that torch has."""

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from helpers import engines
from helpers.onnx_files import Exported, check_values
from lowbit_compiler.exits.tensorrt.reader import OPSET, READER
from lowbit_compiler.recipes import RECIPES, Recipe
from lowbit_compiler.runtime.formats.lines import Lines
from lowbit_compiler.runtime.treatments.treatment import at_once

EPS = 2.0**-24
QUICK = ("int8", "int4-weight-only")
CASES = {
    **{name: RECIPES[name] for name in engines.TAKEN},
    "int5": Recipe("int5", "int5", "float"),
    "int4-zeros": Recipe("int4-zeros", "int4-zeros", "float", group_size=32),
    "s4": Recipe("s4", "int4-symmetric", "float"),
    "mxfp4-int8": Recipe("mxfp4-int8", "mxfp4", "int8"),
}


def moved(recipe: Recipe, layer: nn.Linear) -> float | Tensor:
    """Bound of what lines lose whose codes are stored less half of them: each of the products and sums of one number is rounded once."""
    w = recipe.plan.w
    _, offset = READER.stored[w.format.onnx[0]]
    if not isinstance(w.scale, Lines):
        return 0.0
    treated = recipe.plan.treatment.weight(at_once, layer.weight.detach())
    slope, start = w.unit(treated), w.start(treated)
    size = 2 * offset * slope.abs() + start.abs()
    return w.scale.spread(8 * EPS * size, treated.shape[-1])


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.model) for name in CASES])
def test_values_and_types(name: str, tmp_path: Path) -> None:
    """By ONNX's own evaluator, on rows with an outlier and one of zeros; 96 columns leave a part of a group of 64."""
    recipe, layer, x = CASES[name], nn.Linear(96, 48).eval(), torch.randn(5, 96)
    x[..., 3] *= 20
    x[2] = 0
    file = Exported(tmp_path, layer, {"input": x}, recipe=recipe, form="qdq", opset=OPSET, reader=READER)
    assert engines.require_codes_before_dequantize(file.proto) >= layer.weight.numel()
    assert not engines.large_floats(file.proto, layer.weight.numel())
    (got,) = ReferenceEvaluator(file.proto).run(None, {file.proto.graph.input[0].name: x.numpy()})
    check_values(recipe, layer, x, torch.from_numpy(np.asarray(got)), moved(recipe, layer))
