"""``lowbit debug accuracy`` and what goes with it: a list that the other commands take, one line for a mistake, status 130 for Ctrl-C."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.forks import COMMAND, lowbit
from lowbit_compiler.cli.arguments import names_to_ignore, share
from lowbit_compiler.errors import OptionError

MODEL = """
from collections import UserDict

import torch

torch.manual_seed(0)

def model():
    layers = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64))
    return layers.eval(), (torch.randn(40, 64),)

def several():
    layers, inputs = model()
    return layers, [inputs, {"input": torch.randn(30, 64)}]

def size(output):
    return float(output.square().mean())

def encoded():
    layers, (x,) = model()
    return layers, UserDict(input=x)

def attribute(output):
    return output.loss

def unused():
    raise RuntimeError("loaded")

def slow():
    class Slow(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lines = torch.nn.Sequential(*(torch.nn.Linear(256, 256) for _ in range(60)))
        def forward(self, x):
            if not torch.compiler.is_compiling():
                print("running", flush=True)
            return self.lines(x)
    return Slow().eval(), (torch.randn(4096, 256),)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_model.py"
    path.write_text(MODEL)
    return path


def test_the_list_is_taken_by_other_commands(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "ignore.json"
    common = ("--plan", "always")
    found = lowbit("debug", "accuracy", f"{file}:several", *common, "--remainder", "eager", "--budget", "0.9%", "--out", str(out))
    assert found.returncode == 0, found.stderr
    assert "relative error: low-bit 1." in found.stdout
    assert "1 of 2 layers in float" in found.stdout
    options = json.loads(out.read_text())
    assert len(options["ignore"]) == 1
    assert options["recipe"] == "int8"
    again = lowbit("explain", f"{file}:model", *common, "--measure", "--ignore", str(out))
    assert again.returncode == 0, again.stderr
    assert f"filtered by the user: ignore {options['ignore'][0]!r}" in again.stdout
    assert "bound" in again.stdout


def test_a_budget_that_cannot_be_met_is_status_1(file: Path, tmp_path: Path) -> None:
    """The command says so and writes no file; the metric is the user's."""
    metric = tmp_path / "metric.py"
    metric.write_text("calls = []\ndef rising(output):\n    calls.append(0)\n    return float(max(len(calls) - 1, 1))\n")
    out = tmp_path / "ignore.json"
    arguments = ("--plan", "always", "--remainder", "eager", "--metric", f"{metric}:rising", "--out", str(out))
    result = lowbit("debug", "accuracy", f"{file}:encoded", *arguments)
    assert result.returncode == 1, result.stderr
    assert "not even all layers in float meet the budget" in result.stdout
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{file}:model", "--budget", "much"), "expected a share such as 0.3% or 0.003, got 'much'"),
        (("{file}:size",), "my_model.py:size raised TypeError"),
        (("{file}:model", "--metric", "{file}:nothing"), "has no function 'nothing'"),
        (("{file}:unused", "--remainder", "fast"), "option 'remainder' takes 'inductor' or 'eager' or 'tensorrt', got 'fast'"),
        (("{file}:unused", "--ignore", "re:("), "'re:(' is not a valid regular expression"),
        (("{file}:encoded", "--metric", "{file}:attribute"), "attribute, given a Tensor, raised AttributeError"),
    ],
)
def test_mistakes_are_one_line(file: Path, arguments: tuple[str, ...], message: str) -> None:
    result = lowbit("debug", "accuracy", *(argument.format(file=file) for argument in arguments))
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_explain_measures_no_recipe_that_trains(file: Path) -> None:
    result = lowbit("explain", f"{file}:unused", "--recipe", "int8-training", "--measure")
    assert result.returncode == 2
    assert "recipe 'int8-training' trains; accepted: int8, " in result.stderr


def test_interrupt_ends_cleanly(file: Path) -> None:
    hears = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # what a shell starts in the background does not
    command = [sys.executable, "-c", hears + COMMAND, "debug", "accuracy", f"{file}:slow", "--plan", "always"]
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        if "Exception ignored in" not in errors:  # Python itself drops an interrupt that meets a callback of a weak reference
            break
    assert process.returncode == 130, errors
    assert "Traceback" not in errors


def test_share() -> None:
    assert share("0.3%") == pytest.approx(0.003)
    assert share("0.003") == 0.003
    for wrong in ("-1%", "nan", "x", ""):
        with pytest.raises(OptionError, match="expected a share"):
            share(wrong)


def test_names_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"recipe": "int8", "ignore": ["b", "re:^c$"]}')
    assert names_to_ignore(["a", str(path)]) == ["a", "b", "re:^c$"]
    for text in ("[]", "{}", "{", '{"ignore": "lm_head"}', '{"ignore": [1]}'):
        path.write_text(text)
        with pytest.raises(OptionError, match="expected a file that 'lowbit debug accuracy --out' wrote"):
            names_to_ignore([str(path)])
