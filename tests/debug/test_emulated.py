"""The tools of debugging on products that no kernel computes: measured, ranked, left out, dumped."""

import importlib.resources
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import nn

from helpers.dumps import dumped, record_of
from helpers.recipes import EMULATED
from lowbit_compiler.cli.dump import dump
from lowbit_compiler.debug import accuracy, measure
from lowbit_compiler.dump.files import read
from lowbit_compiler.recipes import Recipe

SCHEMA = json.loads((importlib.resources.files("lowbit_compiler.dump") / "schema.json").read_text())
EAGER: dict[str, Any] = {"remainder": "eager", "plan": "always"}
MIXED = Recipe("mixed", "mxfp4", "mxfp4", head="weight-only")


@pytest.mark.parametrize("name", ["nvfp4", "int2", "mxfp4-columns"])
def test_measure(name: str) -> None:
    """Each product beside its float64 value and its certificate, in the report of ``explain``."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 48)).eval()
    x = torch.randn(30, 96)
    x[3, 4] = 9.0
    report = measure(model, x, recipe=EMULATED[name], **EAGER)
    assert [site.decision for site in report.sites] == ["emulated"] * 2
    for site in report.sites:
        row = site.measured
        assert row is not None
        assert row.sqnr is not None
        assert 8 < row.sqnr < 45
        assert row.tightness is not None
        assert 0 < row.tightness <= 1
        assert row.weight_tightness is not None
        assert 0.5 < row.weight_tightness <= 1
    assert "SQNR dB" in str(report)


def test_accuracy_meets_a_budget() -> None:
    """Layers are ranked, and those on the list are left in float, as with kernels."""
    model = nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 48), nn.Linear(48, 5000)).eval()
    result = accuracy(model, (torch.randn(9, 96),), recipe=MIXED, budget=0.15, **EAGER)
    assert result.met
    assert result.reached is not None
    assert result.reached.change <= 0.15 < result.low.change
    assert 0 < len(result.ignored) < len(result.layers)
    assert not any(layer.broken for layer in result.layers)
    assert all((layer.measured.effect or 0.0) > 0 for layer in result.layers)
    assert [site.decision for site in result.report.sites] == ["emulated", "emulated", "rewritten"]
    text = str(result)
    assert "emulated" in text


def test_dump(tmp_path: Path) -> None:
    """The page has the quantized product as it stays in the graph, and what was measured of it."""
    folder, report = dumped(tmp_path, recipe=EMULATED["mxfp4"])
    jsonschema.validate(record_of(folder), SCHEMA)
    record = read(folder)
    assert {site.decision for site in report.sites if site.kind == "linear"} == {"emulated"}
    last = [node.target for node in record.nodes_of(len(record.stages) - 1)]
    assert "lowbit.quantize_fp4_mx.default" in last
    assert "lowbit.dequantize_fp4_mx.default" in last
    for place, site in zip(record.stages[-1].sites, record.sites, strict=True):
        wanted = "lowbit.product_f32.default" if site.kind == "linear" else f"aten.{site.op}.default"
        assert record.nodes[place].target == wanted  # type: ignore[index]


def test_dump_with_measurements(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 48)).eval()
    dump(model, (torch.randn(9, 96),), tmp_path, recipe=EMULATED["nvfp4"], plan="always", measure=True)
    sites = read(tmp_path / "graph_0").sites
    assert [site.decision for site in sites] == ["emulated"] * 2
    for site in sites:
        assert site.measured is not None
        assert 0 < site.measured.error <= site.measured.bound  # type: ignore[operator]
