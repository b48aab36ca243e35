"""Formats without an operator of their own in files: stored in ONNX's types where the opset has them, with the values that torch has."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from helpers.onnx_files import Exported, check_values
from helpers.recipes import EMULATED
from lowbit_compiler.exits.onnx.types import STORE
from lowbit_compiler.recipes import Recipe
from lowbit_compiler.runtime.formats.grid import Floats

TYPES = {TensorProto.DataType.Value(name): name for name in ("INT8", "UINT8", "INT4", "UINT4", "FLOAT4E2M1", "FLOAT8E8M0", "FLOAT8E4M3FN")}


def rows() -> Tensor:
    x = torch.randn(5, 96)
    x[..., 3] *= 20
    x[2] = 0
    return x


def exported(folder: Path, recipe: Recipe, form: str, opset: int, **options: Any) -> tuple[nn.Linear, Tensor, Exported]:
    layer, x = nn.Linear(96, 40).eval(), rows()
    return layer, x, Exported(folder, layer, {"input": x}, recipe=recipe, form=form, opset=opset, **options)


def stored_types(file: Exported) -> set[str]:
    """The types of what is stored for the weight, but floats and sizes."""
    kinds = {tensor.data_type for tensor in file.stored().values() if tensor.dims}
    return {TYPES[kind] for kind in kinds if kind not in (TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)}


RECIPES = {
    **EMULATED,
    "int4-nested": Recipe("int4-nested", "int4-nested", "float", group_size=32),
    "ternary": Recipe("ternary", "ternary", "int8"),
    "ternary-groups": Recipe("ternary-groups", "ternary-groups", "float"),
}
CASES = [
    ("int2", "qdq", 21, {"UINT4"}),
    ("int2", "integer", 21, {"UINT8"}),
    ("int4-nested", "qdq", 21, {"UINT4", "UINT8", "INT8"}),
    ("ternary", "qdq", 21, {"INT4"}),
    ("ternary-groups", "qdq", 21, {"INT4"}),
    ("mxfp4-weights", "qdq", 22, {"INT8", "UINT8"}),
    ("mxfp4-weights", "qdq", 23, {"FLOAT4E2M1", "UINT8"}),
    ("mxfp4-weights", "qdq", 24, {"FLOAT4E2M1", "FLOAT8E8M0"}),
    ("nvfp4-weights", "qdq", 23, {"FLOAT4E2M1", "FLOAT8E4M3FN"}),
    ("e4m3-weights", "qdq", 23, {"INT8"}),
    ("mxfp4", "qdq", 25, {"FLOAT4E2M1", "FLOAT8E8M0"}),
    ("mxfp4", "integer", 21, {"INT8", "UINT8"}),
    ("nvfp4", "qdq", 23, {"FLOAT4E2M1", "FLOAT8E4M3FN"}),
    ("e4m3-rotated", "integer", 21, {"INT8"}),
    ("mxfp4-int8", "qdq", 24, {"FLOAT4E2M1", "FLOAT8E8M0"}),
    ("mxfp4-columns", "qdq", 24, {"FLOAT4E2M1", "FLOAT8E8M0"}),
]


@pytest.mark.parametrize(("name", "form", "opset", "types"), CASES, ids=lambda value: value if isinstance(value, (str, int)) else "")
def test_file(name: str, form: str, opset: int, types: set[str], tmp_path: Path) -> None:
    """Right by ONNX's own evaluator (ONNX Runtime's CPU provider has no e2m1), which knows no kernel of anybody's."""
    layer, x, file = exported(tmp_path, RECIPES[name], form, opset)
    onnx.checker.check_model(file.proto, full_check=True)
    assert file.proto.opset_import[0].version == opset
    assert stored_types(file) == types
    (site,) = file.report.sites
    emulated = RECIPES[name].plan.product is None
    assert site.decision == ("emulated" if emulated else "rewritten")
    assert site.detail == (f"no integer form for {RECIPES[name].plan.name}" if emulated else "")
    (got,) = ReferenceEvaluator(file.proto).run(None, {file.proto.graph.input[0].name: x.numpy()})
    check_values(RECIPES[name], layer, x, torch.from_numpy(np.asarray(got)))


@pytest.mark.parametrize(("name", "form"), [("int2", "qdq"), ("ternary", "qdq"), ("e4m3", "qdq"), ("nvfp4", "integer")])
def test_verified_in_onnx_runtime(name: str, form: str, tmp_path: Path) -> None:
    layer, x, file = exported(tmp_path, RECIPES[name], form, 21, verify=True, dynamic_shapes={"input": {0: "rows"}})
    check_values(RECIPES[name], layer, x, file.run(x)[0])
    (one,) = file.run(x[:1])
    assert one.shape == (1, 40)


def test_codes_take_half_a_byte(tmp_path: Path) -> None:
    _, _, file = exported(tmp_path, EMULATED["mxfp4-weights"], "qdq", 24)
    sizes = {TYPES[tensor.data_type]: len(tensor.raw_data) for tensor in file.stored().values() if tensor.data_type in TYPES}
    assert sizes == {"FLOAT4E2M1": 40 * 96 // 2, "FLOAT8E8M0": 40 * 96 // 32}


@pytest.mark.parametrize(
    ("name", "grid", "dtype"),
    [("FLOAT4E2M1", Floats(2, 1, 2), ml_dtypes.float4_e2m1fn), ("FLOAT8E4M3FN", Floats(4, 3, 8), ml_dtypes.float8_e4m3fn)],
)
def test_codes_become_the_bits_of_the_type(name: str, grid: Floats, dtype: type) -> None:
    """Every finite number keeps its value, with its sign."""
    most = grid.codes[1] - (name == "FLOAT8E4M3FN")  # whose last code is NaN
    codes = torch.arange(-most, most + 1, dtype=torch.int8)
    stored = STORE[name](codes.numpy())
    assert stored.dtype == np.dtype(dtype)
    assert np.array_equal(stored.astype(np.float32), grid.decode(codes).numpy())


def test_powers_of_two_keep_their_bits() -> None:
    stored = STORE["FLOAT8E8M0"](np.array([0, 1, 127, 254, 255], np.uint8)).astype(np.float64)
    assert stored[:4].tolist() == [2.0**-127, 2.0**-126, 1.0, 2.0**127]
    assert np.isnan(stored[4])
