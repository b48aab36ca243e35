"""The passes of the ONNX exit follow the waist, show their graphs, and have tests."""

from pathlib import Path

import pytest
import torch
from torch import nn

import lowbit_compiler as lowbit
from lowbit_compiler.exits.forms import forms
from lowbit_compiler.passes.contract import Fact
from lowbit_compiler.passes.pipeline import waist

FORMS = ("integer", "qdq")


@pytest.mark.parametrize("form", FORMS)
def test_requirements_are_established_in_order(form: str) -> None:
    holding: set[Fact] = set()
    for p in waist() + forms(form):
        assert p.requires <= holding, p.name
        holding = (holding - p.destroys) | p.establishes
    assert Fact.OPENED in holding


@pytest.mark.parametrize("form", FORMS)
def test_docstrings_show_both_graphs(form: str) -> None:
    for p in forms(form):
        text = type(p).__doc__ or ""
        assert "Before" in text, p.name
        assert "After" in text or "Before and after" in text, p.name


@pytest.mark.parametrize("form", FORMS)
def test_every_pass_has_a_test(form: str) -> None:
    root = Path(__file__).resolve().parents[1]
    tests = "\n".join(path.read_text() for folder in ("passes", "onnx") for path in (root / folder).glob("test_*.py"))
    for p in forms(form):
        assert p.name in tests, p.name


def test_a_file_is_written_with_all_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the environment leaves out of compilations has no translation: exports take no notice."""
    model, x = nn.Linear(64, 48).eval(), torch.randn(3, 64)
    lowbit.export_onnx(model, x, tmp_path / "before.onnx")
    for name, value in {"LOWBIT_DISABLE": "quantize", "LOWBIT_STOP_AFTER": "plan", "LOWBIT_MAX_REWRITES": "0"}.items():
        monkeypatch.setenv(name, value)
        report = lowbit.export_onnx(model, x, tmp_path / "after.onnx")
        assert len(report.rewritten) == 1
        assert (tmp_path / "after.onnx").read_bytes() == (tmp_path / "before.onnx").read_bytes()
