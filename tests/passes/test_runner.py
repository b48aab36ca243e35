"""The runner catches liars, broken facts and bad orders, and names them."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import fx

from helpers.graphs import TwoLinears, capture, context, run_until
from lowbit_compiler.errors import PassError
from lowbit_compiler.passes.contract import Fact, PassContext
from lowbit_compiler.passes.notes import notes
from lowbit_compiler.passes.runner import run_passes


@dataclass
class Fake:
    name: str = "fake"
    requires: frozenset[Fact] = frozenset()
    establishes: frozenset[Fact] = frozenset()
    destroys: frozenset[Fact] = frozenset()
    exact: bool = True
    act: object = field(default=lambda gm, ctx: 0)

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        return self.act(gm, ctx)  # type: ignore[operator, no-any-return]


def _captured() -> tuple[fx.GraphModule, PassContext]:
    captured, _ = capture(TwoLinears(), torch.randn(3, 96))
    return captured.gm, context(captured)


def _add_node(gm: fx.GraphModule, ctx: PassContext) -> int:
    output = next(node for node in gm.graph.nodes if node.op == "output")
    with gm.graph.inserting_before(output):
        gm.graph.call_function(torch.relu, (output.args[0][0],))
    return 0


def _add_node_honestly(gm: fx.GraphModule, ctx: PassContext) -> int:
    return _add_node(gm, ctx) + 1


def _crash(gm: fx.GraphModule, ctx: PassContext) -> int:
    raise KeyError("gone")


def test_requires() -> None:
    gm, ctx = _captured()
    with pytest.raises(PassError, match="pass fake: requires FOUND, which no pass before it establishes"):
        run_passes([Fake(requires=frozenset({Fact.FOUND}))], gm, ctx)


def test_liar() -> None:
    gm, ctx = _captured()
    with pytest.raises(PassError, match="pass fake: reports 0 rewrites and changed the graph"):
        run_passes([Fake(act=_add_node)], gm, ctx, strict=True)


def test_missing_value() -> None:
    gm, ctx = _captured()
    with pytest.raises(PassError, match=r"pass fake: .*relu.* has no meta\['val'\]"):
        run_passes([Fake(act=_add_node_honestly)], gm, ctx)


def test_broken_fact() -> None:
    captured, _ = capture(TwoLinears(), torch.randn(3, 96))
    ctx = context(captured)
    run_until(captured, ctx, "plan")
    with pytest.raises(PassError, match=r"pass fake: fact LOWERED does not hold .*linear"):
        run_passes([Fake(establishes=frozenset({Fact.LOWERED}))], captured.gm, ctx)


def test_crash_is_named() -> None:
    gm, ctx = _captured()
    with pytest.raises(PassError, match="pass fake: KeyError: 'gone'"):
        run_passes([Fake(act=_crash)], gm, ctx)


def test_disabled_pass_skips_those_that_need_it() -> None:
    captured, _ = capture(TwoLinears(), torch.randn(3, 96))
    ctx = context(captured)
    facts, runs = run_until(captured, ctx, disable={"treat"})
    skipped = {run.name: run.skipped for run in runs if run.skipped}
    assert skipped["treat"] == "disabled"
    assert skipped["quantize"] == "needs TREATED"
    assert Fact.LOWERED not in facts


def test_provenance() -> None:
    captured, _ = capture(TwoLinears(), torch.randn(3, 96))
    ctx = context(captured)
    run_until(captured, ctx, "quantize")
    makers = {notes(node).made_by for node in captured.gm.graph.nodes} - {""}
    assert makers == {"merge", "treat", "quantize"}
