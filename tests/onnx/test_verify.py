"""The verifier: right files agree, a changed weight is found at its node; the command line prints it and returns a status."""

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import lowbit_compiler as lowbit
from helpers.graphs import TwoLinears
from helpers.onnx_files import Exported
from lowbit_compiler.errors import ExportError
from lowbit_compiler.onnx.session import session
from lowbit_compiler.onnx.verify import difference

MODEL = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32)).eval(), (torch.randn(3, 64),)
"""


def lowbit_command(*args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", "from lowbit_compiler.cli import main; main()", *args], capture_output=True, text=True, check=False
    )


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
    path.write_text("nothing")
    with pytest.raises(ExportError, match="is not a readable ONNX file"):
        lowbit.verify_onnx(path, nn.Linear(64, 64).eval(), torch.randn(1, 64))
    graph = onnx.helper.make_graph([], "g", [], [])
    onnx.save(onnx.helper.make_model(graph), str(path))
    with pytest.raises(ExportError, match="lowbit did not write it"):
        lowbit.verify_onnx(path, nn.Linear(64, 64).eval(), torch.randn(1, 64))


def test_command_line(tmp_path: Path) -> None:
    source, path = tmp_path / "model.py", tmp_path / "out.onnx"
    source.write_text(MODEL)
    made = lowbit_command("export-onnx", f"{source}:model", "--out", str(path), "--dynamic", "input:0=rows", "--recipe", "int8-vector")
    assert made.returncode == 0, made.stderr
    assert "2 of 2 sites rewritten" in made.stdout
    assert str(path) in made.stdout
    assert session(path).get_inputs()[0].shape == ["rows", 64]
    good = lowbit_command("verify-onnx", str(path), f"{source}:model")
    assert (good.returncode, "agrees" in good.stdout) == (0, True), good.stderr
    spoil(path, "2.weight_q")
    bad = lowbit_command("verify-onnx", str(path), f"{source}:model")
    assert (bad.returncode, "2 (product_u8s8)" in bad.stdout) == (1, True), bad.stdout + bad.stderr
