"""Switches for debugging: passes left out, verified, counted and dumped; and what becomes of a pass that fails."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.block import block
from helpers.compiled import COSINE, NATIVE, compiled, cosine, linears, reports_of
from lowbit_compiler.passes.graph import emit
from lowbit_compiler.passes.merge import MergeSiblings
from lowbit_compiler.passes.pipeline import PASS_NAMES
from lowbit_compiler.passes.treat import Treat


def test_nan_does_not_pass_verification(plain_environment: pytest.MonkeyPatch) -> None:
    def poisoned(self: MergeSiblings, gm: Any, ctx: Any) -> int:
        (output,) = (node for node in gm.graph.nodes if node.op == "output")
        result: Any = output.args[0][0]
        with gm.graph.inserting_before(output):
            output.args = ((emit(gm, torch.ops.aten.mul.Tensor, result, float("nan"), like=result),),)
        return 1

    plain_environment.setenv("LOWBIT_VERIFY", "each")
    plain_environment.setattr(MergeSiblings, "run", poisoned)
    model, x = block()
    with torch.no_grad(), pytest.raises(Exception, match=r"pass merge: output 0 has nan dB"):
        compiled(model)(x)


def broken(self: Treat, gm: Any, ctx: Any) -> int:
    raise ZeroDivisionError("broken on purpose")


def test_failing_pass_falls_back(plain_environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    plain_environment.setattr(Treat, "run", broken)
    model, x = block()
    with torch.no_grad(), caplog.at_level(logging.WARNING, "lowbit_compiler"):
        got, (report,) = reports_of(lambda: compiled(model)(x))
        assert torch.equal(got, model(x))
    assert "pass treat: ZeroDivisionError: broken on purpose" in report.fallback
    assert "broken on purpose" in str(report)
    assert len(report.declined) == len(report.sites) == 7
    assert any("broken on purpose" in record.getMessage() for record in caplog.records)


def test_failing_pass_raises_under_verify(plain_environment: pytest.MonkeyPatch) -> None:
    plain_environment.setattr(Treat, "run", broken)
    plain_environment.setenv("LOWBIT_VERIFY", "each")
    model, x = block()
    with torch.no_grad(), pytest.raises(Exception, match="pass treat: ZeroDivisionError: broken on purpose"):
        compiled(model)(x)


@pytest.mark.parametrize("recipe", ["int8", "llm-int8", "int4-weight-only"])
def test_verify_passes(plain_environment: pytest.MonkeyPatch, recipe: str) -> None:
    plain_environment.setenv("LOWBIT_VERIFY", "each")
    model, x = block(torch.bfloat16)
    with torch.no_grad():
        got, (report,) = reports_of(lambda: compiled(model, recipe)(x))
        assert cosine(got, model(x)) > COSINE
    assert len(linears(report)) == 5


@pytest.mark.parametrize(
    ("switch", "recipe"),
    [("LOWBIT_STOP_AFTER", "int8"), ("LOWBIT_STOP_AFTER", "llm-int8"), ("LOWBIT_DISABLE", "int8"), ("LOWBIT_DISABLE", "int4-weight-only")],
)
def test_every_prefix_and_gap(plain_environment: pytest.MonkeyPatch, switch: str, recipe: str) -> None:
    """Whatever is left out, the graph runs and agrees."""
    model, x = block(torch.bfloat16)
    for name in PASS_NAMES:
        plain_environment.setenv(switch, name)
        torch._dynamo.reset()
        with torch.no_grad():
            got, (report,) = reports_of(lambda: compiled(model, recipe)(x))
            assert cosine(got, model(x)) > COSINE, name
        assert not report.fallback, name
        ran = [run.name for run in report.passes]
        assert ran == list(PASS_NAMES[: PASS_NAMES.index(name) + 1] if switch == "LOWBIT_STOP_AFTER" else PASS_NAMES)
        if switch == "LOWBIT_DISABLE":
            assert next(run.skipped for run in report.passes if run.name == name) == "disabled"


@pytest.mark.parametrize("limit", [0, 1, 2, 4, 99])
def test_max_rewrites(plain_environment: pytest.MonkeyPatch, limit: int) -> None:
    plain_environment.setenv("LOWBIT_MAX_REWRITES", str(limit))
    model, x = block()
    with torch.no_grad():
        got, (report,) = reports_of(lambda: compiled(model)(x))
        assert cosine(got, model(x)) > COSINE
    sites = 5 + NATIVE  # and the attention
    assert len(report.rewritten) == min(limit, sites)
    assert sum(site.reason == "LOWBIT_MAX_REWRITES reached" for site in report.declined) == max(sites - limit, 0)


@pytest.mark.parametrize("how", ["option", "environment"])
def test_dump(plain_environment: pytest.MonkeyPatch, tmp_path: Path, how: str) -> None:
    folder = tmp_path / "new" / "dump"
    if how == "environment":
        plain_environment.setenv("LOWBIT_DUMP", str(folder))
    model, x = block()
    with torch.no_grad():
        run = compiled(model, **({"dump": str(folder)} if how == "option" else {}))
        _, reports = reports_of(lambda: (run(x), run(torch.randn(2, 9, 64))))
    assert sorted(path.name for path in folder.iterdir()) == ["graph_0", "graph_1"]
    names = [f"{number:02d}_{name}.txt" for number, name in enumerate(["capture", *PASS_NAMES])]
    for graph, report in zip(("graph_0", "graph_1"), reports, strict=True):
        files = {path.name for path in (folder / graph).iterdir() if path.suffix != ".diff"}
        assert files == {*names, "graph.json", "index.md", "report.txt", "view.html"}
        index = (folder / graph / "index.md").read_text()
        assert all(name in index for name in names)
        assert (folder / graph / "report.txt").read_text() == str(report)
        assert "aten.linear" in (folder / graph / names[0]).read_text()
        assert "lowbit.linear_s8s8_rotated" in (folder / graph / names[-1]).read_text()
