"""``lowbit export-tensorrt``: its arguments arrive, mistakes are one line and status 2."""

from pathlib import Path

import pytest

from helpers.forks import lowbit

MODEL = """
import torch

def model():
    return torch.nn.Linear(64, 48).eval(), (torch.randn(4, 64),)
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    (tmp_path / "my_model.py").write_text(MODEL)
    return f"{tmp_path / 'my_model.py'}:model"


@pytest.mark.model
def test_an_engine(spec: str, tmp_path: Path) -> None:
    out = tmp_path / "m.engine"
    options = ("--capability", "8.6", "--capability", "8.9", "--dynamic", "input:0=batch:8")
    result = lowbit("export-tensorrt", spec, "--out", str(out), "--recipe", "int8-weight-only", *options)
    assert result.returncode == 0, result.stderr
    assert "recipe int8-weight-only: 1 of 1 sites rewritten" in result.stdout
    assert "compute capability 8.6, 8.9; not run here" in " ".join(result.stdout.split())
    assert out.stat().st_size > 64 * 48


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dynamic", "input:0=batch"), "lowbit: dynamic_shapes: dimension 0 of 'input' needs a largest size"),
        (("--dynamic", "input:0=batch:2"), "lowbit: dynamic_shapes: dimension 0 of 'input' is 4 in inputs, and takes 1 to 2"),
        (("--capability", "9.1"), "lowbit: capabilities takes compute capabilities among 7.5"),
        (("--recipe", "llm-int8"), "lowbit: recipe 'llm-int8' does not go into an engine of TensorRT"),
    ],
)
def test_mistakes(options: tuple[str, ...], message: str, spec: str, tmp_path: Path) -> None:
    result = lowbit("export-tensorrt", spec, "--out", str(tmp_path / "m.engine"), *options)
    assert result.returncode == 2
    assert result.stderr.startswith(message), result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "m.engine").exists()
