"""One linear in ONNX Runtime: the integers equal the reference's, floats are within the bounds, special rows are as documented."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import lowbit_compiler as lowbit
from helpers import bounds, operands, plain
from helpers.compiled import compiled
from helpers.onnx_files import Exported
from lowbit_compiler.recipes import Recipe
from lowbit_compiler.runtime.formats import operand

N = 40
TREATMENTS = ("none", "rotation", "columns", "rows")


def recipe(treatment: str) -> Recipe:
    return Recipe(f"test {treatment}", treatment=treatment, head="same")  # type: ignore[arg-type]


def linear(k: int, bias: bool = True) -> nn.Module:
    model = nn.Linear(k, N, bias)
    model.weight.data = operands.weight(N, k)
    return model.eval()


def rows(k: int) -> Tensor:
    """Rows with outliers, ties, rows of zeros, and rows close to either end of float32."""
    x = operands.rows(12, k, torch.float32)
    x[1] = 0.0
    x[2] = torch.arange(k) - k / 2 + 0.5
    x[2, 0] = 127.0 if k < 200 else 254.0  # x 127 / a has ties, or half of them
    x[3] *= 2.0**-125
    x[4] = 2.0**-121
    x[5] *= 2.0**110
    x[6, 1:] = 0.0
    return x


def kept_of(x: Tensor, treatment: str) -> tuple[Tensor, Tensor | None]:
    """Return the part that is quantized, and the exact part."""
    if treatment == "rotation":
        return plain.rotate(x), None
    if treatment == "columns":
        return plain.split_columns(x, 6.0)
    return plain.split_rows(x) if treatment == "rows" else (x, None)


CASES = [("none", 32), ("rotation", 100), ("rotation", 576), ("columns", 576), ("rows", 100)]


@pytest.fixture(scope="module", params=CASES, ids=[f"{treatment}-{k}" for treatment, k in CASES])
def case(request: Any, tmp_path_factory: Any) -> tuple[str, int, Exported]:
    treatment, k = request.param
    folder = tmp_path_factory.mktemp("linear")
    return treatment, k, Exported(folder, linear(k), rows(k)[:2], recipe=recipe(treatment), dynamic_shapes=({0: "rows"},))


def test_integers_and_bounds(case: tuple[str, int, Exported]) -> None:
    treatment, k, exported = case
    x = rows(k)
    kept, exact = kept_of(x, treatment)
    weight, bias = exported.request.model.weight.detach(), exported.request.model.bias.detach()
    qx, sx = plain.quantize_s8(kept)
    qw, sw = plain.quantize_s8(plain.rotate(weight) if treatment == "rotation" else weight)
    values = exported.values(x, operators=("QuantizeLinear", "MatMulInteger"))
    assert torch.equal(values["QuantizeLinear"][0].to(torch.int32) - 128, qx.to(torch.int32))
    assert torch.equal(values["MatMulInteger"][0].to(torch.int64), qx.long() @ qw.long().t())
    want, bound = bounds.linear_s8s8(qx, sx, qw, sw, bias, torch.float32, exact)
    (got,) = exported.run(x)
    bounds.assert_within(got, want, bound)


def test_special_rows_are_not_finite_and_others_untouched(case: tuple[str, int, Exported]) -> None:
    _, k, exported = case
    for value in (torch.nan, torch.inf, -torch.inf):
        spoiled = rows(k)
        spoiled[7, 3], spoiled[8, k - 1] = value, value
        (got,) = exported.run(spoiled)
        assert not got[[7, 8]].isfinite().any()
        others = [row for row in range(len(spoiled)) if row not in (7, 8)]
        (alone,) = exported.run(spoiled[others])  # which columns are exact depends on the rows that there are
        assert torch.equal(got[others], alone)
        assert alone.isfinite().all()


def test_any_number_of_outlier_columns(tmp_path: Path) -> None:
    """There is no capacity: none, one, some and all columns are exact, each in the one file."""
    k = 100
    exported = Exported(tmp_path, linear(k), operands.rows(2, k, torch.float32), recipe=recipe("columns"), dynamic_shapes=({0: "rows"},))
    weight, bias = exported.request.model.weight.detach(), exported.request.model.bias.detach()
    qw, sw = plain.quantize_s8(weight)
    for count in (0, 1, 33, k):
        x = torch.rand(5, k) * 5 - 2.5
        x[torch.arange(count) % 5, torch.randperm(k)[:count]] = 7.0
        kept, exact = plain.split_columns(x, 6.0)
        assert int((exact != 0).any(0).sum()) == count
        qx, sx = plain.quantize_s8(kept)
        assert torch.equal(exported.values(x, operators=("MatMulInteger",))["MatMulInteger"][0].long(), qx.long() @ qw.long().t())
        bounds.assert_within(exported.run(x)[0], *bounds.linear_s8s8(qx, sx, qw, sw, bias, torch.float32, exact))


@pytest.mark.parametrize(
    ("name", "group", "form", "k"),
    [
        ("int8-weight-only", None, "integer", 100),
        ("int8-weight-only", None, "qdq", 64),
        ("int4-weight-only", 32, "integer", 100),
        ("int4-weight-only", 128, "qdq", 100),
    ],
)
def test_weight_only(name: str, group: int | None, form: str, k: int, tmp_path: Path) -> None:
    model, x = linear(k, bias=False), operands.rows(9, k, torch.float32)
    options = {"group_size": group} if group else {}
    exported = Exported(tmp_path, model, (x[:2],), recipe=name, form=form, dynamic_shapes=({0: "rows"},), **options)
    one = operand("int4" if group else "int8", group or 0)
    assert one is not None
    q, *stored = one.quantize(model.weight.detach())
    slope, start = (one.scale.spread(part, k).double() for part in (one.scale.unit(*stored), one.scale.start(*stored)))
    above = slope * q
    want, bound = bounds.linear_float(x, above + start, None, torch.float32)
    (got,) = exported.run(x)
    # The product with a slope may be rounded by itself, and its sum with a minimum.
    bounds.assert_within(got, want, bound + 2 * bounds.EPS * x.double().abs() @ (above.abs() + start.abs()).t())


@pytest.mark.parametrize("shape", [(100,), (2, 1, 3, 100)])
def test_any_rank(shape: tuple[int, ...], tmp_path: Path) -> None:
    x = torch.randn(shape) * 4
    exported = Exported(tmp_path, linear(100), (x,), recipe=recipe("rotation"), verify=True)
    assert exported.run(x)[0].shape == (*shape[:-1], N)


@pytest.mark.parametrize("form", ["integer", "qdq"])
def test_the_width_in_force(tmp_path: Path, form: str) -> None:
    """A weight whose bits were switched is in the file as its products read it."""
    model = linear(100)
    run, x = compiled(model, "int8-switchable"), rows(100)
    with torch.no_grad():
        run(x)
        lowbit.switch_bits(run, 4)
        want = run(x)
    exported = Exported(tmp_path, model, x, recipe="int8-switchable", form=form)
    assert "1 weights are read in 4 bits (lowbit.switch_bits)" in exported.report.notes
    int8 = [onnx.numpy_helper.to_array(each) for each in exported.proto.graph.initializer if each.data_type == onnx.TensorProto.INT8]
    (stored,) = (each for each in int8 if each.shape == (100, N))
    assert not (stored % 16).any()
    bounds.assert_within(exported.run(x)[0], want.double(), 2.0**-20 * want.abs().double() + 1e-30)
