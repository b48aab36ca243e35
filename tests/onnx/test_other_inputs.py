"""The verifier tries other inputs than it was given: what a trace or a file took from the example as a constant is found."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import lowbit_compiler as lowbit
from helpers.onnx_files import Exported
from lowbit_compiler.errors import ExportError
from lowbit_compiler.exits.onnx.varied import varied


class Frozen(nn.Module):
    """Takes something of the example into the graph as a number, where it is being traced."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.linear, self.table = nn.Linear(64, 64), nn.Embedding(50, 64)
        self.what = what

    def forward(self, x: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        y = self.linear(x) + self.table(ids) * mask.unsqueeze(-1)
        if self.what == "length":
            return y.sum(1) / (6 if torch.compiler.is_compiling() else x.shape[1])
        if self.what == "batch":
            return y.sum() / (2 if torch.compiler.is_compiling() else x.shape[0])
        return y


@dataclass
class _Request:
    """What `varied` reads and changes of a request."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


SHAPES = {"x": {0: "batch", 1: "length"}, "ids": {0: "batch", 1: "length"}, "mask": {0: "batch", 1: "length"}}


def inputs() -> dict[str, Tensor]:
    return {"x": torch.randn(2, 6, 64), "ids": torch.randint(0, 50, (2, 6)), "mask": torch.ones(2, 6, dtype=torch.int64)}


@pytest.mark.parametrize("what", ["length", "batch"])
def test_a_size_that_was_taken_for_a_constant(what: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ExportError, match=r"output, traced, other inputs .* differs"):
        lowbit.export_onnx(Frozen(what).eval(), inputs(), path, dynamic_shapes=SHAPES, verify=True)
    assert not path.exists()
    lowbit.export_onnx(Frozen(what).eval(), inputs(), path, verify=True)  # sizes that stay are constants


class Baked(nn.Module):
    """Adds what it was told is its input: a constant, where the trace runs."""

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.register_buffer("example", example)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + (self.example if torch.compiler.is_compiling() else x)


@pytest.mark.parametrize("recipe", ["int8", "int4-weight-only"])
def test_values_that_were_taken_for_constants(recipe: str, tmp_path: Path) -> None:
    x = torch.randn(3, 64)
    model, path = Baked(x).eval(), tmp_path / "model.onnx"
    with pytest.raises(ExportError, match=r"output, traced, other inputs .* differs"):
        lowbit.export_onnx(model, x, path, recipe=recipe, verify=True)
    lowbit.export_onnx(model, x, path, recipe=recipe)
    result = lowbit.verify_onnx(path, model, x)
    assert all(row.agrees for row in result.outputs)
    assert not result.agrees
    assert "something of the example is a constant in it" in " ".join(str(result).split())


def test_a_constant_in_the_file_alone(tmp_path: Path) -> None:
    """An output of the file that is the example's, stored."""
    model, given = Frozen("").eval(), inputs()
    exported = Exported(tmp_path, model, given, dynamic_shapes=SHAPES, verify=True)
    proto = onnx.load(str(exported.path))
    (want,) = exported.run(*given.values())
    proto.graph.initializer.append(onnx.numpy_helper.from_array(want.numpy(), "stored"))
    (last,) = (node for node in proto.graph.node if proto.graph.output[0].name in node.output)
    last.output[0] = "computed"
    proto.graph.node.append(onnx.helper.make_node("Identity", ["stored"], [proto.graph.output[0].name]))
    onnx.save(proto, str(exported.path))
    result = lowbit.verify_onnx(exported.path, model, given)
    assert not result.agrees
    assert [row.name for row in result.other.outputs] == ["output: torch.float32 (2, 6, 64) for torch.float32 (3, 8, 64)"]


class Choosy(Frozen):
    """Takes nothing but what it was made for."""

    def forward(self, x: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() and float(x[0, 0, 0]) != 0.25:
            raise ValueError("not 0.25")
        return super().forward(x, ids, mask)


def test_a_model_that_takes_no_other_inputs(tmp_path: Path) -> None:
    given = inputs()
    given["x"][0, 0, 0] = 0.25
    model, path = Choosy("").eval(), tmp_path / "model.onnx"
    lowbit.export_onnx(model, given, path, dynamic_shapes=SHAPES, verify=True)
    result = lowbit.verify_onnx(path, model, given)
    assert result.agrees
    assert result.other is None
    assert "only the inputs given were tried" in str(result)
    assert "ValueError: not 0.25" in " ".join(str(result).split())


def test_a_right_file_says_what_was_tried(tmp_path: Path) -> None:
    model, given = Frozen("").eval(), inputs()
    exported = Exported(tmp_path, model, given, dynamic_shapes=SHAPES)
    result = lowbit.verify_onnx(exported.path, model, given)
    assert result.agrees, str(result)
    assert "other inputs: (3, 8, 64), (3, 8), (3, 8)" in str(result)
    assert [row.agrees for row in (*result.other.traced, *result.other.outputs)] == [True, True]


MADE: dict[str, tuple[Any, Any]] = {
    "floats": (torch.randn(4, 5), lambda x, y: y.abs().max() <= x.abs().max()),
    "positive": (torch.rand(4, 5), lambda x, y: bool((y >= 0).all()) and bool((y <= 1).all())),
    "a number": (torch.tensor(2.0), lambda x, y: 1 <= y < 2),
    "zeros": (torch.zeros(4, 5), lambda x, y: 0.3 < y.std() < 3),
    "a column that stands out": (
        torch.randn(40, 5).abs() * torch.tensor([1, 1, 100, 1, 1]), lambda x, y: y[:, 2].mean() > 10 * y[:, 1].mean()
    ),
    "integers": (torch.randint(3, 30, (4, 5)), lambda x, y: y.min() >= x.min() and y.max() <= x.max()),
    "the largest integers": (torch.tensor([0, 1, 5, 2**63 - 1]), lambda x, y: bool((y >= 0).all())),
    "all integers": (torch.tensor([-(2**63), 0, 2**63 - 1]), lambda x, y: y.dim() == 1),
    "close to the largest": (torch.arange(2**63 - 9, 2**63 - 1) + 1, lambda x, y: bool((y >= x.min()).all())),
    "unsigned": (torch.arange(20).to(torch.uint16), lambda x, y: int(y.long().max()) < 20),
    "an unsigned mask": (torch.ones(4, 5, dtype=torch.uint32), lambda x, y: bool(y.long()[:, :3].all()) and int(y.long().max()) == 1),
    "a mask": (torch.ones(4, 5, dtype=torch.int64), lambda x, y: bool(y[:, :3].all()) and bool(((y == 0) | (y == 1)).all())),
    "a mask in float": (torch.ones(4, 5), lambda x, y: bool(y[:, :3].all()) and bool(((y == 0) | (y == 1)).all())),
    "a mask in bool": (torch.ones(4, 5, dtype=torch.bool), lambda x, y: bool(y[:, :3].all())),
    "a causal mask": (torch.ones(5, 5, dtype=torch.bool).tril(), lambda x, y: all(any(torch.equal(a, b) for b in x) for a in y)),
    "an added mask": (
        torch.full((5, 5), -torch.inf).triu(1), lambda x, y: all(any(torch.equal(a, b) for b in x) for a in y)
    ),
}  # fmt: skip


class First(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


@pytest.mark.parametrize("kind", MADE)
def test_how_inputs_are_drawn(kind: str) -> None:
    """Always the same, others than the example, and like it."""
    x, like = MADE[kind]
    program = torch.export.export(First(), (x,))
    request: Any = _Request((x,))
    (first,), (second,) = (varied(request, program, names=[]).args for _ in range(2))
    assert torch.equal(first, second)
    assert (first.shape, first.dtype) == (x.shape, x.dtype)
    assert not torch.equal(first, x)
    assert like(x, first)


class Chosen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.table(x.long().unsqueeze(0))


def test_ids_that_say_little_are_drawn_from_the_embedding() -> None:
    x = torch.ones(40, dtype=torch.int32)
    (ids,) = varied(_Request((x,)), torch.export.export(Chosen(), (x,)), names=None).args  # type: ignore[arg-type]
    assert (ids.dtype, ids.min() >= 0, ids.max() < 50, ids.max() > 1) == (torch.int32, True, True, True)


@pytest.mark.parametrize(("most", "rows"), [(9, 8), (3, 4)], ids=["larger", "smaller at the end of the range"])
def test_sizes_are_drawn_within_their_range(most: int, rows: int) -> None:
    """Of inputs whose sizes belong together: 6 rows are twice 3, and as many as the other input's."""
    x, y = torch.randn(6, 4), torch.randn(3, 4)
    half = torch.export.Dim("half", max=most)

    class Pair(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x[::2] + y

    program = torch.export.export(Pair(), (x, y), dynamic_shapes=({0: 2 * half}, {0: half}))
    first, second = varied(_Request((x, y)), program, names=[]).args  # type: ignore[arg-type]
    assert (first.shape, second.shape) == ((rows, 4), (rows // 2, 4))


def test_sizes_under_one_name_stay_equal() -> None:
    """Also where the trace would take them apart."""
    x, y = torch.randn(3, 4), torch.randn(3, 4)

    class Apart(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return x + 1, y + 1

    program = torch.export.export(Apart(), (x, y), dynamic_shapes=({0: torch.export.Dim.DYNAMIC}, {0: torch.export.Dim.DYNAMIC}))
    for names, rows in (([["batch", 4], ["batch", 4]], (4, 4)), ([["a", 4], ["b", 4]], (4, 5))):
        made = varied(_Request((x, y)), program, names=names).args  # type: ignore[arg-type]
        assert tuple(len(each) for each in made) == rows
