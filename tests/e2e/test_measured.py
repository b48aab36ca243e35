"""The default plan: every linear that the recipe covers is timed, and the report says what came of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import zoo
from helpers.compiled import NATIVE, compiled, cosine, linears, reports_of
from lowbit_compiler.exits import runtime
from lowbit_compiler.report import Report
from lowbit_compiler.runtime import timings


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(timings, "NOISE", 1e9)  # remembered, however busy the machine is
    monkeypatch.setattr(timings, "quiet", lambda: True)


def run(model: Callable[..., Any], inputs: dict[str, Any], recipe: str = "int8", **options: Any) -> tuple[Any, Report]:
    with torch.no_grad():
        got, (report,) = reports_of(lambda: compiled(model, recipe, plan="measured", **options)(**inputs).logits)
    assert not report.fallback
    return got, report


@pytest.mark.skipif(not NATIVE, reason="without the native library nothing is timed")
@pytest.mark.parametrize("recipe", ["int8", "llm-int8", "int4-weight-only"])
def test_every_linear_has_its_times(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = zoo.causal("Llama")()
    got, report = run(model, inputs, recipe)
    with torch.no_grad():
        assert cosine(got, model(**inputs).logits) > (0.9 if recipe == "int4-weight-only" else 0.99)
    timed = [site for site in report.sites if site.kind == "linear"]
    assert len(timed) == 15
    for site in timed:
        assert "at 26 rows" in site.detail
        assert (site.decision, site.reason) in (("rewritten", ""), ("declined", "slower here"))
    decisions = {site.module.rpartition(".")[2]: site.lowered_to for site in timed}
    assert decisions["q_proj"] == decisions["k_proj"] == decisions["v_proj"]
    assert decisions["gate_proj"] == decisions["up_proj"]

    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("measured twice")

    monkeypatch.setattr(timings, "_known", {})
    monkeypatch.setattr(timings, "measure", again)
    torch._dynamo.reset()
    assert run(model, inputs, recipe)[1].sites == report.sites


def test_freed_weights_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph may not want a weight in float that another has freed."""

    def timed(*_: Any) -> dict[str, float]:
        raise AssertionError("timed")

    monkeypatch.setattr(runtime, "measured_linear", timed)
    model, inputs = zoo.causal("Llama")()
    _, report = run(model, inputs, free_weights=True)
    assert len(linears(report)) == 15


@pytest.mark.skipif(not NATIVE, reason="without the native library nothing is timed")
def test_each_graph_has_its_own_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one weight: rotated at many rows, weight-only at one, float between."""
    model = torch.nn.Linear(96, 64).eval()
    best = {1: "linear_fs8", 7: "float", 40: "linear_s8s8_rotated"}
    monkeypatch.setattr(
        runtime,
        "measured_linear",
        lambda call, timer: {name: 1.0 + (name != best[call.rows]) for name in ("float", *(p.op for p in call.plans))},
    )
    runner = compiled(model, plan="measured", dynamic=False)
    for rows, name in best.items():
        x = torch.randn(rows, 96)
        with torch.no_grad():
            got, (report,) = reports_of(lambda x=x: runner(x))
            assert cosine(got, model(x)) > 0.999
        assert report.sites[0].lowered_to == ("" if name == "float" else f"lowbit::{name}")


@pytest.mark.skipif(NATIVE, reason="for a run without the native library")
def test_no_library() -> None:
    model, inputs = zoo.causal("Llama")()
    _, report = run(model, inputs)
    assert not report.rewritten
    assert report.reasons()["linear: no kernel"] == 15
