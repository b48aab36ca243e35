"""What is in an exported file: stored integers, names, provenance; and models of many kinds agree with PyTorch."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import lowbit_compiler as lowbit
from helpers import bounds, layers, zoo
from helpers.case import Case
from helpers.graphs import TwoLinears
from helpers.onnx_files import Exported, stored_values
from lowbit_compiler.exits.onnx.labels import MODULE, PASS
from lowbit_compiler.recipes import RECIPES, WITH_KERNELS
from lowbit_compiler.runtime.treatments.treatment import at_once

DYNAMIC = {"x": {0: "batch", 1: "length"}}


def outliers(*shape: int) -> Tensor:
    x = torch.randn(*shape)
    x[..., 3] *= 20
    return x


@pytest.fixture(scope="module")
def two_linears(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[TwoLinears, Exported]]:
    """Return a function of recipe and form that exports a model, once for each."""

    @functools.cache
    def exported(recipe: str, form: str) -> tuple[TwoLinears, Exported]:
        model, folder = TwoLinears().eval(), tmp_path_factory.mktemp("two_linears")
        return model, Exported(folder, model, {"x": outliers(2, 5, 96)}, recipe=recipe, form=form, dynamic_shapes=DYNAMIC)

    return exported


@pytest.mark.parametrize(
    ("recipe", "form"), [*((recipe, "integer") for recipe in WITH_KERNELS), ("llm-int8", "qdq"), ("int4-weight-only", "qdq")]
)
def test_recipe(recipe: str, form: str, two_linears: Any) -> None:
    """Exported, checked, and right at shapes that were never traced, a single row among them."""
    model, exported = two_linears(recipe, form)
    for shape in ((1, 1), (3, 17), (2, 5)):
        x = outliers(*shape, 96)
        result = exported.agreement({"x": x})
        assert result.agrees, str(result)
        if form == "integer" and recipe in ("int8", "int8-vector"):  # the order of every float operation is lowbit's
            assert all(row.absolute == 0 for row in result.outputs), str(result)
        elif recipe.endswith("weight-only"):
            assert all(row.relative <= bound for row, bound in zip(result.outputs, noise(model, x), strict=True)), str(result)
        assert [value.shape for value in exported.run(x)] == [(*shape, 96), (*shape, 32)]
    sizes = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in exported.proto.graph.output]
    assert sizes == [["batch", "length", 96], ["batch", "length", 32]]

    check_stored(exported, model, recipe, form)


def noise(model: TwoLinears, x: Tensor) -> list[float]:
    """Return the bounds on what sums in another order change in the two outputs, against the largest value of each."""

    def error(linear: nn.Linear, rows: Tensor, of_rows: Tensor) -> Tensor:
        weight = linear.weight.double().abs()
        weight = weight + weight.amax(1, keepdim=True) / 14  # codes of four bits are within half a step of 1/7
        size = rows.abs() @ weight.t() + linear.bias.double().abs()
        return 2 * (2 * bounds.EPS * (linear.in_features + 3) * size) + of_rows @ weight.t()  # both sides are off

    with torch.no_grad():
        hidden, outputs = model.q(x).relu(), model(x)
        rows = x.double()
        errors = [
            error(model.o, hidden.double(), error(model.q, rows, torch.zeros_like(rows))),
            error(model.k, rows, torch.zeros_like(rows)),
        ]
    return [float(gap.max() / output.abs().max()) for gap, output in zip(errors, outputs, strict=True)]


def check_stored(exported: Exported, model: TwoLinears, recipe: str, form: str) -> None:
    """Weights are stored as integers of the recipe's size, and no float tensor is as large as a weight."""
    stored, plan = exported.stored(), RECIPES[recipe].plan
    opened = plan.opened
    codes = str(plan.w.format.grid.dtype).removeprefix("torch.").upper()
    kind = plan.w.format.onnx[0] if opened or form == "qdq" else codes  # without steps of their own codes stay bytes there
    weights = {name: tensor for name, tensor in stored.items() if name.endswith("weight_q")}
    assert set(weights) == {"q+k.weight_q", "o.weight_q"}
    assert {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in weights.values()} == {kind}
    originals = sum(parameter.nbytes for parameter in model.parameters())
    floats = [tensor for name, tensor in stored.items() if tensor.data_type == onnx.TensorProto.FLOAT and not name.startswith("hadamard")]
    assert sum(len(tensor.raw_data) for tensor in floats) < 0.1 * originals
    most = (1 / 8 if kind == "UINT4" else 1 / 4) * (4 / 3 if plan.treatment.rotates else 1)  # rotation pads K = 96 to 128
    assert sum(len(tensor.raw_data) for tensor in weights.values()) <= most * originals
    q, *_ = plan.w.quantize(plan.treatment.weight(at_once, model.o.weight.detach()))
    assert torch.equal(torch.from_numpy(stored_values(weights["o.weight_q"])), q.t() if opened else q)


def test_nodes_say_where_they_come_from(two_linears: Any) -> None:
    _, exported = two_linears("llm-int8", "integer")
    assert {"q, k", "o"} <= set(exported.metadata(MODULE))
    assert {"integer-form"} == set(exported.metadata(PASS))  # "qdq-form" in the other form
    (split,) = (node for node in exported.proto.graph.node if node.op_type == "Split")
    assert {"q, k", "integer-form"} <= {entry.value for entry in split.metadata_props}
    names = [node.name for node in exported.proto.graph.node]
    assert len(set(names)) == len(names)
    for name in (
        "q+k/hit_columns/GreaterOrEqual",
        "q+k/product_columns/Gather",
        "q+k/product_u8s8/MatMulInteger",
        "o/quantize_unsigned/QuantizeLinear",
    ):
        assert name in names
    for node in exported.proto.graph.node:
        if node.op_type in ("MatMulInteger", "QuantizeLinear", "NonZero"):
            assert {MODULE, PASS} <= {entry.key for entry in node.metadata_props}, node.name
    assert not any("stack_trace" in entry.key for node in exported.proto.graph.node for entry in node.metadata_props)


FAMILIES = {"gpt2", "bert", "attention-weights", "convolutional", "weight-norm"}


@pytest.mark.parametrize("case", [case for case in zoo.CASES if case.name in FAMILIES], ids=lambda case: case.name)
def test_family(case: Case, tmp_path: Path) -> None:
    """Keywords, masks, dictionaries and several outputs, convolutions and recurrent layers: every value agrees, given its inputs."""
    model, inputs = case.make()
    report = lowbit.export_onnx(model, inputs, tmp_path / "model.onnx", recipe=case.recipe, verify=True)
    assert len([site for site in report.rewritten if site.kind == "linear"]) >= case.rewritten
    for site in report.sites:
        assert site.decision == "rewritten" or site.detail, site


class Shared(nn.Module):
    """A weight read by two products and a table; outputs that are one value, and an input."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(80, 64)
        self.inner, self.head = nn.Linear(64, 64), nn.Linear(64, 80, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor, scale: float = 2.0) -> dict[str, Any]:
        x = self.inner(self.inner(self.table(ids)) * scale)
        y = self.head(x)
        return {"logits": y, "again": y, "ids": ids, "pair": (x, [x.sum(-1)])}


def test_shared_weights_and_outputs(tmp_path: Path) -> None:
    model, ids = Shared().eval(), torch.randint(0, 80, (2, 7))
    exported = Exported(tmp_path, model, {"ids": ids}, recipe="int8", dynamic_shapes={"ids": {0: "batch", 1: "length"}})
    assert [value.name for value in exported.proto.graph.output][:1] == ["logits"]
    assert {"pair.0", "pair.1.0"} <= {value.name for value in exported.proto.graph.output}
    stored = [name for name in exported.stored() if name.endswith("weight_q")]
    assert len(stored) == 2, stored  # the weight of the two calls is there once
    result = exported.agreement({"ids": ids[:1, :1]})
    assert result.agrees, str(result)


def test_nothing_to_rewrite(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(1)).eval(), torch.randn(1, 3, 8, 8)
    exported = Exported(tmp_path, model, x, verify=True)
    assert not exported.report.rewritten
    got, conv = exported.run(x)[0].double(), model[0].double()
    size = nn.functional.conv2d(x.double().abs(), conv.weight.abs(), conv.bias.abs()).flatten(1)
    # 27 products and a bias summed, then the normalization, folded or not: four roundings; its scale is below 1
    assert bool(((got - model.double()(x.double())).abs() <= (27 + 1 + 4) * bounds.EPS * size).all())


@pytest.mark.parametrize("recipe", ["int8", "int4-weight-only"])
def test_float16(recipe: str, tmp_path: Path) -> None:
    model, x = TwoLinears(torch.float16).eval(), outliers(2, 5, 96).half()
    Exported(tmp_path, model, (x,), recipe=recipe, verify=True)


def test_bfloat16_is_exported_and_noted(tmp_path: Path) -> None:
    model, x = TwoLinears(torch.bfloat16).eval(), outliers(2, 5, 96).bfloat16()
    exported = Exported(tmp_path, model, (x,))
    assert any("export model.float()" in note for note in exported.report.notes)
    assert exported.proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16


@pytest.mark.parametrize("opset", [23])
def test_newer_opsets(opset: int, tmp_path: Path) -> None:
    model, inputs = layers.encoder(False, False)()
    exported = Exported(tmp_path, model, inputs, opset=opset, verify=True)
    assert [entry.version for entry in exported.proto.opset_import if entry.domain == ""] == [opset]


class Tables(nn.Module):
    """A filter bank and a masked weight."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", torch.rand(64, 64))
        self.inner = nn.Linear(64, 64)
        self.register_buffer("mask", (torch.rand(64, 64) > 0.5).float())

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x @ self.filters, self.inner.weight * self.mask)


def test_tables_stay_in_float_unless_asked_for(tmp_path: Path) -> None:
    model, x = Tables().eval(), torch.rand(8, 64)
    report = lowbit.export_onnx(model, x, tmp_path / "float.onnx")
    assert [(site.decision, site.reason) for site in report.sites] == [("declined", "constant table"), ("rewritten", "")]
    path = tmp_path / "quantized.onnx"
    report = lowbit.export_onnx(model, x, path, buffers="quantized", ignore=["inner"])
    assert [(site.decision, site.reason) for site in report.sites] == [("rewritten", ""), ("declined", "filtered by the user")]
    assert lowbit.verify_onnx(path, model, x).agrees, "the file says how its tables were exported"
