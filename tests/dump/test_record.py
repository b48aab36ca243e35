"""What a dump holds: the schema, the same nodes in text, diff and JSON, and what a failing pass left."""

import importlib.resources
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import nn

import lowbit_compiler as lowbit
from helpers.dumps import Model, dumped, record_of
from lowbit_compiler.cli.dump import dump
from lowbit_compiler.dump import files, sinks
from lowbit_compiler.dump.files import attach, folders, new_folder, read
from lowbit_compiler.dump.record import Record
from lowbit_compiler.errors import PassError
from lowbit_compiler.passes.pipeline import PASS_NAMES
from lowbit_compiler.passes.quantize import InsertQuantize
from lowbit_compiler.report import Measured, Report

SCHEMA = json.loads((importlib.resources.files("lowbit_compiler.dump") / "schema.json").read_text())


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dumped(tmp_path_factory.mktemp("dump"))[0]


def test_schema(graph: Path) -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    data = record_of(graph)
    validator.validate(data)
    assert [stage["name"] for stage in data["stages"]] == ["capture", *PASS_NAMES]
    for broken in ({**data, "more": 1}, {**data, "nodes": [{**data["nodes"][0], "bytes": "4"}]}, {**data, "schema": "lowbit-dump/2"}):
        assert not validator.is_valid(broken)


def test_json_reads_back(graph: Path) -> None:
    record = read(graph)
    assert record.to_json() == (graph / "graph.json").read_text()
    with pytest.raises(ValueError, match="expected schema 'lowbit-dump/1', got 'lowbit-dump/2'"):
        Record.from_dict({"schema": "lowbit-dump/2"})


def test_text_and_json_agree(graph: Path) -> None:
    record = read(graph)
    for number, stage in enumerate(record.stages):
        lines = (graph / f"{number:02d}_{stage.name}.txt").read_text().splitlines()
        assert lines == [node.line() for node in record.nodes_of(number)]
        assert len({node.name for node in record.nodes_of(number)}) == len(lines)


def applied(lines: list[str], diff: list[str]) -> list[str]:
    """Return ``lines`` after a unified diff, as patch would do it."""
    result, at = [], 0
    for line in diff[2:]:
        if line.startswith("@@"):
            start, count = (int(part) for part in line.split()[1][1:].split(","))
            first = start - 1 if count else start
            result += lines[at:first]
            at = first
        elif line.startswith("+"):
            result.append(line[1:])
        else:
            assert lines[at] == line[1:]
            at += 1
            result += [line[1:]] if line.startswith(" ") else []
    return result + lines[at:]


def test_diffs_lead_from_stage_to_stage(graph: Path) -> None:
    record = read(graph)
    changed = 0
    for number, stage in enumerate(record.stages[1:], 1):
        before, after = (min(graph.glob(f"{i:02d}_*.txt")).read_text().splitlines() for i in (number - 1, number))
        path = graph / f"{number:02d}_{stage.name}.diff"
        assert path.exists() == (before != after) == bool(stage.edits)
        if path.exists():
            changed += 1
            assert applied(before, path.read_text().splitlines()) == after
    assert changed > 5


def test_added_lines_name_their_pass(graph: Path) -> None:
    lines = next(graph.glob("*_quantize.diff")).read_text().splitlines()[2:]
    added = [line for line in lines if line.startswith("+") and "= lowbit.quantize_s8" in line]
    assert added
    assert all(line.endswith("made by quantize") for line in added)


def test_nodes_say_where_they_come_from(graph: Path) -> None:
    record = read(graph)
    first = {node.name: node for node in record.nodes_of(0)}
    silu = next(node for node in first.values() if node.target.endswith("silu"))
    assert silu.module == "blocks.0"
    assert silu.source is not None
    source = record.sources[silu.source]
    assert Path(source.file).name == "dumps.py"
    assert "silu(self.gate(x))" in source.code
    weight = next(node for node in first.values() if node.parameter == "blocks.0.gate.weight")
    assert (weight.module, weight.type, weight.bytes) == ("blocks.0.gate", "float32[128, 64]", 128 * 64 * 4)
    assert record.modules["blocks.0"] == "Block"


def test_sites_are_at_their_nodes(graph: Path) -> None:
    record = read(graph)
    found = next(stage for stage in record.stages if stage.name == "find")
    assert len(found.sites) == len(record.sites)
    for place, site in zip(record.stages[-1].sites, record.sites, strict=True):
        node = record.nodes[place]  # type: ignore[index]
        assert node.name == site.node
        own = site.lowered_to.replace("::", ".") + ".default" if site.lowered_to else f"aten.{site.op}.default"
        assert node.target in (own, "lowbit.chain.default")


def test_report_can_be_attached_later(tmp_path: Path) -> None:
    folder, report = dumped(tmp_path)
    measured = Measured(sqnr=41.5, error=1e-3, bound=2e-3, activation_scales=(0.1, 0.2, 0.3))
    sites = [type(site)(**{**vars(site), "measured": measured}) for site in report.sites]
    attach(folders(tmp_path), Report(report.recipe, sites=sites))
    jsonschema.validate(record_of(folder), SCHEMA)
    assert all(site.measured == measured for site in read(folder).sites)
    assert '"sqnr":41.5' in (folder / "view.html").read_text()


def test_measured_products_are_shown(tmp_path: Path) -> None:
    dump(Model().eval(), (torch.randn(2, 8, 64),), tmp_path, plan="always", measure=True)
    rewritten = [site for site in read(tmp_path / "graph_0").sites if site.kind == "linear" and site.decision == "rewritten"]
    assert len(rewritten) == 7
    for site in rewritten:
        assert site.measured is not None, site
        assert 0 < site.measured.error <= site.measured.bound  # type: ignore[operator]


def let_fail(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Let pass quantize raise ``error``."""

    def fail(self: Any, gm: Any, ctx: Any) -> int:
        raise error

    monkeypatch.setattr(InsertQuantize, "run", fail)


def test_what_a_failing_pass_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_fail(monkeypatch, RuntimeError("on purpose"))
    with pytest.raises(Exception, match="on purpose"):
        dumped(tmp_path)
    record = read(tmp_path / "graph_0")
    assert record.stages[-1].name == "failed"
    assert "on purpose" in record.fallback
    assert "pass quantize" in (tmp_path / "graph_0" / "index.md").read_text()
    jsonschema.validate(record_of(tmp_path / "graph_0"), SCHEMA)


def test_folders_are_never_shared(tmp_path: Path) -> None:
    (tmp_path / "graph_1").mkdir()
    assert [new_folder(tmp_path).name for _ in range(3)] == ["graph_2", "graph_3", "graph_4"]
    assert new_folder(tmp_path / "new").name == "graph_0"


@pytest.mark.parametrize("first", [0, 3], ids=["no folder", "half of it"])
def test_a_full_disk_costs_the_dump_and_nothing_else(
    first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The model is rewritten all the same, and one warning says that the dump is not whole."""
    left = [first]

    def mkdir(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    def text_of(*given: Any) -> str:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return stage_text(*given)

    stage_text = files.stage_text
    monkeypatch.setattr(sinks, "new_folder", mkdir) if first == 0 else monkeypatch.setattr(files, "stage_text", text_of)
    model, x = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval(), torch.randn(2, 64)
    compiled = torch.compile(model, backend="lowbit", options={"plan": "always", "remainder": "eager", "dump": str(tmp_path / "dump")})
    with torch.no_grad():
        compiled(x)
    report = lowbit.last_report()
    assert [site.decision for site in report.sites] == ["rewritten"] * 2
    assert not report.fallback
    (record,) = (record for record in caplog.records if record.name == "lowbit_compiler" and record.levelname == "WARNING")
    assert "the dump in " in record.getMessage()
    assert "is not complete: [Errno 28] No space left on device" in record.getMessage()


def test_symbolic_sizes(tmp_path: Path) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        nn.Linear(64, 64).eval(), backend="lowbit", dynamic=True, options={"dump": str(tmp_path), "plan": "always", "remainder": "eager"}
    )
    with torch.no_grad():
        compiled(torch.randn(5, 64))
    data = record_of(tmp_path / "graph_0")
    jsonschema.validate(data, SCHEMA)
    assert any(node["bytes"] is None and "s" in node["type"] for node in data["nodes"])
    assert data["compile_id"] == "0/0"


def test_export_has_the_same_dump(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    lowbit.export_onnx(Model(1).eval(), (torch.randn(2, 8, 64),), tmp_path / "model.onnx", dump=str(tmp_path / "dump"))
    data = record_of(tmp_path / "dump" / "graph_0")
    jsonschema.validate(data, SCHEMA)
    assert data["compile_id"] == ""
    assert data["modules"]["blocks.0.gate"] == "Linear"


def test_nothing_is_recorded_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "Recording", lambda *args: pytest.fail("nobody asked for a record"))
    with torch.no_grad():
        lowbit.explain(nn.Linear(64, 64).eval(), torch.randn(2, 64))


def test_pass_errors_reach_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_fail(monkeypatch, PassError("pass quantize: on purpose"))
    with pytest.raises(PassError, match="on purpose"):
        dumped(tmp_path)
