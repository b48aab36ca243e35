"""A graph that trains is dumped as Dynamo gave it, with its ops, and as the joint graph of forward and backward."""

from pathlib import Path

import pytest

from helpers.compiled import compiled, reports_of
from helpers.training import gradients, learner
from lowbit_compiler.cli.dump import dump
from lowbit_compiler.compile import training
from lowbit_compiler.dump.files import PAGE, folders, read
from lowbit_compiler.dump.record import Record
from lowbit_compiler.errors import OptionError

OPS = ["lowbit::train_linear", "lowbit::train_grad_input", "lowbit::train_grad_weight"]


def at(record: Record, stage: int) -> list[str]:
    """The targets of the nodes that the rows of a stage are at; "" where one is nowhere."""
    return ["" if place is None else record.nodes[place].target for place in record.stages[stage].sites]


@pytest.mark.parametrize(("recipe", "checkpointed"), [("int8-training", False), ("int4-training-paper", True)])
def test_joint_graph(recipe: str, checkpointed: bool, tmp_path: Path) -> None:
    model = learner(recipe)
    model.checkpointed = checkpointed
    _, (report,) = reports_of(lambda: gradients(model, compiled(model, recipe, dump=str(tmp_path))))
    assert not report.fallback
    (folder,) = folders(tmp_path)
    record = read(folder)
    assert (record.recipe, [stage.name for stage in record.stages]) == (recipe, ["capture", "train", "joint"])
    assert [site.module for site in record.sites] == [site.module for site in report.sites]
    joint = at(record, 2)
    grads = ["train_grad_stepped"] * 2 if recipe == "int4-training-paper" else [op.removeprefix("lowbit::") for op in OPS[1:]]
    for site, target in zip(record.sites, joint, strict=True):
        wanted = dict(zip(OPS, ["train_linear", *grads], strict=True)).get(site.lowered_to)
        assert (wanted or "") in target
        assert bool(wanted) == bool(target)
    if not checkpointed:
        assert all("getitem" in target for target, site in zip(at(record, 1), record.sites, strict=True) if site.lowered_to)
    assert all(node.type for node in record.nodes_of(2) if node.op == "placeholder")
    assert (folder / PAGE).stat().st_size > 10_000


def test_what_is_trained_does_not_depend_on_the_dump(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("no trace")

    monkeypatch.setattr(training, "joint_graph", failing)
    model = learner("int8-training")
    _, (report,) = reports_of(lambda: gradients(model, compiled(model, "int8-training", dump=str(tmp_path))))
    assert not report.fallback
    assert len(report.rewritten) == 12
    record = read(folders(tmp_path)[0])
    assert ([stage.name for stage in record.stages], len(record.sites), record.fallback) == (["capture", "train"], len(report.sites), "")
    assert "no joint graph: RuntimeError: no trace" in caplog.text


def test_command(tmp_path: Path) -> None:
    from helpers.training import text

    report, files = dump(learner("int8-training"), [text()], tmp_path, recipe="int8-training")
    assert len(report.rewritten) == 12
    assert files[0][0].name == PAGE
    with pytest.raises(OptionError, match="gradients are measured by lowbit debug accuracy"):
        dump(learner("int8-training"), [text()], tmp_path, recipe="int8-training", measure=True)
