"""The verifier: right files agree, a changed weight is found at its node; the command line prints it and returns a status."""

import json
import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import lowbit_compiler as lowbit
from helpers.graphs import TwoLinears
from helpers.onnx_files import Exported
from lowbit_compiler.cli.app import main
from lowbit_compiler.errors import ExportError, OptionError
from lowbit_compiler.exits.onnx.build import INFO
from lowbit_compiler.exits.onnx.origin import read
from lowbit_compiler.exits.onnx.replay import at_border
from lowbit_compiler.exits.onnx.session import session
from lowbit_compiler.exits.onnx.verify import difference

MODEL = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32)).eval(), (torch.randn(3, 64),)
"""


def lowbit_command(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    """Run the command line here, where torch is imported already, and return its status."""
    monkeypatch.setattr(sys, "argv", ["lowbit", *args])
    with pytest.raises(SystemExit) as exit:
        main()
    return exit.value.code or 0


def spoil(path: Path, name: str) -> None:
    """Change the first weight of a stored tensor."""
    proto = onnx.load(str(path))
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0, 0] = -values[0, 0] + 3
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    onnx.save(proto, str(path))


@pytest.mark.parametrize("recipe", ["int8", "llm-int8"])
def test_a_changed_weight_is_found_at_its_node(recipe: str, tmp_path: Path) -> None:
    x = torch.randn(4, 96)
    x[:, 3] *= 20
    exported = Exported(tmp_path, TwoLinears().eval(), (x,), recipe=recipe)
    assert exported.agreement((x,)).agrees
    spoil(exported.path, "o.weight_q")
    result = exported.agreement((x,))
    assert not result.agrees
    wrong = [row for row in result.inside if not row.agrees]
    assert [(row.name, row.where) for row in wrong] == [("product_u8s8_1", "o (product_u8s8)")]  # and nothing that reads it
    assert "o (product_u8s8)" in str(result)
    assert [row.agrees for row in result.outputs] == [False, True]


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_changed_last_step_is_found(outputs: int, tmp_path: Path) -> None:
    """The value that is an output has another name in the file than in PyTorch."""
    model = nn.Linear(64, 32).eval() if outputs == 1 else TwoLinears().eval()
    x = torch.randn(3, 64 if outputs == 1 else 96)
    exported = Exported(tmp_path, model, (x,), recipe="int8-vector")
    proto = onnx.load(str(exported.path))
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name in ("bias", "o.bias"))
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + 5, tensor.name))
    onnx.save(proto, str(exported.path))
    assert not exported.agreement((x,)).agrees


def test_difference() -> None:
    a = torch.tensor([1.0, torch.nan, torch.inf, -2.0])
    assert difference("a", "", a, a.clone()).relative == 0
    assert not difference("a", "", a, torch.tensor([1.0, torch.nan, -torch.inf, -2.0])).agrees
    assert not difference("a", "", torch.tensor([torch.nan]), torch.tensor([1.0])).agrees
    assert not difference("a", "", torch.tensor([3]), torch.tensor([4])).agrees
    assert not difference("a", "", a.half(), a).agrees
    assert difference("a", "", torch.tensor([2.001]), torch.tensor([2.0])).agrees
    assert not difference("a", "", torch.tensor([2.003]), torch.tensor([2.0])).agrees
    assert difference("a", "", torch.zeros(0), torch.zeros(0)).agrees


def test_a_foreign_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ExportError, match="there is no file "):
        lowbit.verify_onnx(path, nn.Linear(64, 64).eval(), torch.randn(1, 64))
    path.write_text("nothing")
    with pytest.raises(ExportError, match="is not a readable ONNX file"):
        lowbit.verify_onnx(path, nn.Linear(64, 64).eval(), torch.randn(1, 64))
    graph = onnx.helper.make_graph([], "g", [], [])
    onnx.save(onnx.helper.make_model(graph), str(path))
    with pytest.raises(ExportError, match="lowbit did not write it"):
        lowbit.verify_onnx(path, nn.Linear(64, 64).eval(), torch.randn(1, 64))


class Choosing(nn.Module):
    """A model with a number, and with an input among its outputs, under its name and under that of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 32), nn.Linear(64, 32)

    def forward(self, x: Tensor, y: Tensor, n: int = 2, flag: bool = True) -> dict[str, Tensor]:
        return {"y": self.a(x) * n, "x": x, "same": x, "sum": self.b(y) if flag else y}


def test_numbers_are_part_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They must be those of the export, written out or by default; and a limit for bisecting is none of an export."""
    monkeypatch.setenv("LOWBIT_MAX_REWRITES", "1")
    model, x, y = Choosing().eval(), torch.randn(3, 64), torch.randn(2, 64)
    exported = Exported(tmp_path, model, {"x": x, "y": y})
    monkeypatch.delenv("LOWBIT_MAX_REWRITES")
    assert len(exported.report.rewritten) == 2
    assert [value.name for value in exported.proto.graph.input] == ["x", "y"]
    assert [value.name for value in exported.proto.graph.output] == ["y.output", "x.output", "same", "sum"]
    assert lowbit.verify_onnx(exported.path, model, {"x": x, "y": y, "n": 2}).agrees
    with pytest.raises(OptionError, match="the file was exported with n=2, which is part of its graph; got n=3"):
        lowbit.verify_onnx(exported.path, model, {"x": x, "y": y, "n": 3})


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    source, path = tmp_path / "model.py", tmp_path / "out.onnx"
    source.write_text(MODEL)
    options = ("--dynamic", "input:0=rows", "--recipe", "llm-int8", "--llm-int8-threshold", "3.5")
    assert lowbit_command(monkeypatch, "export-onnx", f"{source}:model", "--out", str(path), *options) == 0
    out = capsys.readouterr().out
    assert "2 of 2 sites rewritten" in out
    assert str(path) in out.replace("\n", "")
    assert session(path).get_inputs()[0].shape == ["rows", 64]
    assert read(path).recipe.threshold == 3.5
    assert lowbit_command(monkeypatch, "verify-onnx", str(path), f"{source}:model") == 0
    assert "agrees" in capsys.readouterr().out
    spoil(path, "2.weight_q")
    assert lowbit_command(monkeypatch, "verify-onnx", str(path), f"{source}:model") == 1
    assert "2 (product_u8s8)" in capsys.readouterr().out
    assert lowbit_command(monkeypatch, "export-onnx", f"{source}:model", "--out", str(path), "--group-size", "5") == 2
    assert "group_size" in capsys.readouterr().err


def test_a_file_of_another_version(tmp_path: Path) -> None:
    """What cannot be read is said; where the graph is another, values are not compared by name."""
    model, x = TwoLinears().eval(), torch.randn(3, 96)
    exported = Exported(tmp_path, model, (x,), recipe="int8-vector")
    proto = onnx.load(str(exported.path))
    (entry,) = (entry for entry in proto.metadata_props if entry.key == INFO)
    info = json.loads(entry.value)
    entry.value = json.dumps({**info, "graph": "another"})
    onnx.save(proto, str(exported.path))
    spoil(exported.path, "o.weight_q")
    result = exported.agreement((x,))
    assert not result.agrees
    assert not result.inside
    assert "the model now gives another graph" in " ".join(str(result).split())
    for changed in ({**info, "recipe": {**info["recipe"], "later": 1}}, {"recipe": info["recipe"]}, []):
        entry.value = json.dumps(changed)
        onnx.save(proto, str(exported.path))
        with pytest.raises(ExportError, match=r"was written by lowbit .*, which cannot read its 'lowbit.export'.*export it again"):
            lowbit.verify_onnx(exported.path, model, (x,))


def test_inputs_must_fit_the_file(tmp_path: Path) -> None:
    model, x = nn.Linear(64, 32).eval(), torch.randn(3, 64)
    path = Exported(tmp_path, model, (x,), dynamic_shapes=({0: "rows"},)).path
    assert lowbit.verify_onnx(path, model, torch.randn(5, 64)).agrees  # which sizes may change is in the file
    for wrong in (torch.randn(3, 63), torch.randn(64), x.half()):
        with pytest.raises(OptionError, match=r"input 'input' of the file is torch.float32 \(rows, 64\), got "):
            lowbit.verify_onnx(path, model, wrong)
    with pytest.raises(OptionError, match=r"inputs do not fit Linear\.forward"):
        lowbit.verify_onnx(path, model, (x, x))


def test_only_borders_are_followed() -> None:
    x = torch.tensor([[127.0, 2.5, 3.4999, 7.0]])
    ours = torch.tensor([[127, 2, 3, 7]], dtype=torch.int8)
    theirs = torch.tensor([[126, 3, 4, 8]], dtype=torch.int8)
    assert at_border(x, ours, theirs, 0).tolist() == [[127, 3, 4, 7]]
    shifted = at_border(x, (ours.int() + 128).to(torch.uint8), (theirs.int() + 128).to(torch.uint8), 128)
    assert shifted.tolist() == [[255, 131, 132, 135]]
    empty = torch.zeros(1, 2, dtype=torch.int8)
    assert at_border(torch.zeros(1, 2), empty, empty + 1, 0).tolist() == [[0, 0]]
