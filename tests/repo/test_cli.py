"""The command line: help is quick, mistakes are one line and status 2, explain and dump work on a file of the user's."""

import subprocess
import sys
from pathlib import Path

import pytest

from helpers import forks
from helpers.compiled import NATIVE
from helpers.forks import lowbit
from lowbit_compiler.cli.arguments import TOLERANCE, load_function
from lowbit_compiler.errors import OptionError
from lowbit_compiler.recipe_names import NAMES
from lowbit_compiler.recipes import LOW_BIT_SQNR, RECIPES

MODEL = """
from __future__ import annotations
from dataclasses import dataclass
import torch

@dataclass
class Settings:
    width: int

def model():
    layers = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.Linear(128, 64), torch.nn.Softmax(-1))
    return layers.eval(), (torch.randn(4, 64),)

def nothing():
    return None

def tensor():
    return torch.nn.Linear(2, 2), torch.ones(2)

def number():
    return 1, (torch.ones(2),)

def combined(x, factor=2, bias=None, *, z=0):
    return x * factor + z

def named():
    return combined, {"bias": 3, "x": 1}

def misnamed():
    return combined, {"x": 1, "y": 1}

def named_alone():
    return combined, {"x": 1, "z": 1}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_model.py"
    path.write_text(MODEL)
    return path


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys\nfrom lowbit_compiler.cli.app import main\nsys.argv = ['lowbit', '--help']\nmain()\nassert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for command in ("demo", "explain", "dump", "doctor"):
        assert command in result.stdout


def test_help_names_what_there_is() -> None:
    assert tuple(RECIPES) == NAMES
    assert TOLERANCE == LOW_BIT_SQNR


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("model.py", "expected FILE.py:FUNCTION, got 'model.py'"),
        ("missing.py:model", "no such file: 'missing.py'"),
        ("{file}:modle", "has no function 'modle'; it has: dataclass, Settings, model, nothing, "),
        ("{file}:nothing", r"must return \(model, inputs: a tuple, or a dict of named ones\), got NoneType"),
        ("{file}:tensor", r"must return .*, got Tensor as the inputs"),
        ("{file}:number", r"must return .*, got int as the model"),
        ("{file}:misnamed", r"the model does not take these inputs: got an unexpected keyword argument 'y'"),
        ("{file}:named_alone", r"the model takes z by name alone"),
    ],
)
def test_bad_function(spec: str, message: str, file: Path) -> None:
    with pytest.raises(OptionError, match=message):
        load_function(spec.format(file=file))


def test_mistakes_are_one_line(file: Path) -> None:
    for args in (("explain", f"{file}:model", "--recipe", "int9"), ("explan",), ("dump", "x.py:f")):
        result = lowbit(*args)
        assert result.returncode == 2
        assert result.stderr.startswith("lowbit: ")
        assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("variable", ["LOWBIT_ISA", "LOWBIT_LIBRARY"])
def test_bad_environment_is_one_line(variable: str) -> None:
    result = lowbit("doctor", **{variable: "nonsense"})
    assert result.returncode == 2
    assert result.stderr.startswith(f"lowbit: {variable}: ")
    assert len(result.stderr.strip().splitlines()) == 1


def test_failing_user_code_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("def model():\n    return 1 / 0\n")
    with pytest.raises(OptionError, match=r"bad.py:model raised ZeroDivisionError: division by zero \(.*bad.py, line 2\)"):
        load_function(f"{path}:model")


def test_named_inputs_are_put_in_order(file: Path) -> None:
    assert load_function(f"{file}:named")[1] == (1, 2, 3)


def test_a_file_imports_its_neighbours(file: Path) -> None:
    beside = file.with_name("beside.py")
    beside.write_text(f"from {file.stem} import model\n")
    assert callable(load_function(f"{beside}:model")[0])


def test_a_syntax_error_names_the_line_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("def model(:\n")
    with pytest.raises(OptionError, match=r"bad.py raised SyntaxError: invalid syntax \(bad.py, line 1\)$"):
        load_function(f"{path}:model")


def test_interrupt() -> None:
    code = "from lowbit_compiler.cli.app import app, main\n@app.command()\ndef stop(): raise KeyboardInterrupt\nmain()"
    result = forks.run(code, "stop")
    assert (result.returncode, result.stderr) == (130, "")


def test_dump_and_explain(file: Path, tmp_path: Path) -> None:
    result = lowbit("dump", f"{file}:model", "--plan", "always", "--out", str(tmp_path / "out"))
    assert result.returncode == 0, result.stderr
    assert f"{3 if NATIVE else 2} of 3 sites rewritten" in result.stdout
    folder = tmp_path / "out" / "graph_0"
    assert f"{folder / 'view.html'}  open it in a browser" in result.stdout
    index = (folder / "index.md").read_text()
    for stage in folder.glob("[0-9]*.txt"):
        assert stage.name in index
    assert "lowbit.linear_s8s8_rotated" in next(folder.glob("*_lower.txt")).read_text()
    assert "softmax" in (folder / "report.txt").read_text()


def test_dump_of_a_region(file: Path, tmp_path: Path) -> None:
    result = lowbit("dump", f"{file}:model", "--out", str(tmp_path / "out"), "--region", "2")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "graph_0" / "regions" / "2_00_capture.dot").exists()
    result = lowbit("dump", f"{file}:model", "--out", str(tmp_path / "out"), "--region", "layers.2")
    assert result.returncode == 2
    assert result.stderr.startswith("lowbit: no module, site or node 'layers.2' in this model; did you mean '2'")


def test_doctor() -> None:
    result = lowbit("doctor")
    assert result.returncode == 0, result.stderr
    assert "LOWBIT_ISA" in result.stdout
    assert "lowbit::linear_s8s8_rotated" in result.stdout
