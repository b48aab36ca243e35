"""Gradients of each product: unbiased where they draw, as noisy as their formats, and seen where a rounding is biased."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from helpers.training import Model, learner, text
from lowbit_compiler.cli.app import app
from lowbit_compiler.debug import Gradients, gradients
from lowbit_compiler.debug.gradients import Gradient
from lowbit_compiler.errors import OptionError
from lowbit_compiler.runtime.rounding import NEAREST
from lowbit_compiler.runtime.training.backward import Folded
from lowbit_compiler.runtime.training.plan import TrainingPlan
from lowbit_compiler.runtime.training.plans import PLANS

SITES = [(f"blocks.{i}.{part}", product) for i in range(2) for part in ("up", "down") for product in ("dX", "dW")]
SAMPLES = [(text(4),), (text(3, 5),)]


def found(recipe: str, model: nn.Module | None = None, **options: object) -> dict[tuple[str, str], tuple[float, float, float]]:
    rows = gradients(model or learner(recipe), SAMPLES, recipe, **options).rows
    return {(row.module, row.product): (row.bias, row.variance, row.cosine) for row in rows}


def test_each_product_has_a_row() -> None:
    model = Model()
    got = found("int8-training", model)
    assert sorted(got) == sorted(SITES)
    # int8: rounding errors of 1 / 254 of a row's largest, whose size is a few times that of an element
    assert all(bias < 0.02 and 1e-7 < variance < 1e-2 and cosine > 0.99 for bias, variance, cosine in got.values())
    assert all(parameter.grad is None for parameter in model.parameters())
    wide = found("int4-training", model)
    assert all(wide[site][1] > 4 * got[site][1] and wide[site][2] < got[site][2] for site in SITES)


def test_checkpointed_bodies_steps_and_frozen_weights() -> None:
    model = learner("int4-training-paper")
    model.checkpointed = True
    model.blocks[0].up.weight.requires_grad_(False)
    got = found("int4-training-paper", model, seeds=2)
    assert sorted(got) == sorted(set(SITES) - {("blocks.0.up", "dW")})


def test_bias_of_rounding_to_nearest_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    near = Folded(replace(PLANS["int4-training"].grad_input.gradient, rounding=NEAREST))
    want = found("int4-training")
    monkeypatch.setitem(PLANS, "int4-training", TrainingPlan(PLANS["int4-training"].forward, near, near))
    got = found("int4-training")
    assert all(variance < 1e-12 for _, variance, _ in got.values())
    assert all(got[site][0] > want[site][0] for site in SITES)


def test_result_is_a_table_and_data() -> None:
    result = gradients(Model(), SAMPLES, "int8-training", seeds=2)
    lines = str(result).splitlines()
    assert lines[0].split() == ["layer", "product", "bias", "variance", "cosine"]
    assert len(lines) == 1 + len(SITES) + 2
    again = json.loads(result.to_json())
    assert Gradients(**{**again, "rows": result.rows}) == result
    assert again["rows"][0]["module"] == result.rows[0].module


def test_rows_without_a_gradient_are_last() -> None:
    rows = [Gradient(name, "dW", 0.0, 0.0, cosine) for name, cosine in [("a", 0.9), ("none", math.nan), ("b", 0.5), ("c", 0.7)]]
    assert [line.split()[0] for line in str(Gradients("int8-training", 2, rows)).splitlines()[1:5]] == ["b", "c", "a", "none"]


def test_one_token_without_a_batch() -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 16))
    rows = gradients(model, [(torch.randn(32),)], "int8-training", seeds=2).rows
    assert [row.product for row in rows] == ["dX", "dW", "dW"]
    assert all(row.cosine > 0.99 for row in rows)


def test_bad_arguments() -> None:
    with pytest.raises(OptionError, match=r"a recipe that trains: int8-training, .*; got 'int8'"):
        gradients(Model(), SAMPLES, "int8")
    with pytest.raises(OptionError, match="at least 2, got 1"):
        gradients(Model(), SAMPLES, "int8-training", seeds=1)
    with pytest.raises(OptionError, match="needs a gradient"):
        gradients(Model().requires_grad_(False), SAMPLES, "int8-training")
    with pytest.raises(OptionError, match="trains no linear of Linear"):
        gradients(nn.Linear(8, 8), [(torch.ones(2, 8),)], "int8-training")


def test_command(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import torch\ndef model():\n    return torch.nn.Linear(32, 16), (torch.randn(4, 32),)\n")
    command = ["debug", "accuracy", f"{tmp_path / 'mine.py'}:model", "--recipe", "int8-training"]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "found.json")])
    assert done.exit_code == 0, done.output
    assert "dW" in done.output
    assert [row["product"] for row in json.loads((tmp_path / "found.json").read_text())["rows"]] == ["dW"]  # the input needs none
    for name, value in {"metric": f"{tmp_path / 'mine.py'}:model", "budget": "1%", "plan": "measured", "remainder": "eager"}.items():
        refused = CliRunner().invoke(app, [*command, f"--{name}", value])
        assert refused.exit_code == 2
        assert f"Invalid value for --{name}" in refused.output
