"""Run passes in order, and do for all of them what each would have to remember."""

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from torch import fx

from lowbit_compiler.errors import LowbitError, PassError
from lowbit_compiler.passes.contract import Fact, Pass, PassContext, origin
from lowbit_compiler.passes.facts import CHECKS
from lowbit_compiler.passes.graph import dead
from lowbit_compiler.passes.notes import note
from lowbit_compiler.passes.writes import unmarked


@dataclass(frozen=True)
class PassRun:
    """What one pass did: its name, places rewritten, and wall-clock seconds."""

    name: str
    rewrites: int
    seconds: float
    skipped: str = ""


Observer = Callable[[Pass, PassRun, fx.GraphModule], None]


def run_passes(
    passes: Iterable[Pass],
    gm: fx.GraphModule,
    ctx: PassContext,
    *,
    facts: set[Fact] | None = None,
    disable: Collection[str] = (),
    stop_after: str | None = None,
    observe: Observer | None = None,
    strict: bool = False,
) -> list[PassRun]:
    """Run ``passes`` over ``gm`` in place; returns what each did.

    A disabled pass, and every pass that needs what it would have established, is skipped and says so. After each pass the runner
    removes dead code, lints, checks that new nodes carry ``meta["val"]``, marks them with the pass's name, and checks the facts that
    hold. ``strict`` also checks that 0 rewrites means an unchanged graph. Raises PassError, naming pass, fact and node, after which the
    graph is of no use: to go on, start again with the error's origins among ``ctx.refused``.
    """
    holding = set() if facts is None else facts
    runs: list[PassRun] = []
    for node in gm.graph.nodes:
        note(node, origin=origin(node))
    for position in passes:
        missing = position.requires - holding
        if position.name in disable:
            run = PassRun(position.name, 0, 0.0, "disabled")
        elif missing:
            if not any(run.skipped for run in runs):
                raise PassError(f"pass {position.name}: requires {_names(missing)}, which no pass before it establishes")
            run = PassRun(position.name, 0, 0.0, f"needs {_names(missing)}")
        else:
            run = _run(position, gm, ctx, holding, strict)
        runs.append(run)
        if observe is not None:
            observe(position, run, gm)
        if position.name == stop_after:
            break
    return runs


def _run(p: Pass, gm: fx.GraphModule, ctx: PassContext, holding: set[Fact], strict: bool) -> PassRun:
    before = set(gm.graph.nodes)
    unread = set() if Fact.FOUND in holding else dead(gm)  # the report has a row for these too
    ctx.at = None
    text = str(gm.graph) if strict else ""
    start = time.perf_counter()
    try:
        rewrites = p.run(gm, ctx)
    except LowbitError:
        raise
    except Exception as error:
        raise _failure(p, ctx, ctx.at, f"{type(error).__name__}: {error}") from error
    if strict and rewrites == 0 and str(gm.graph) != text:
        raise PassError(f"pass {p.name}: reports 0 rewrites and changed the graph")
    if rewrites:
        _erase_dead(gm, unread)
        for node in gm.graph.nodes:
            if node not in before:
                note(node, made_by=p.name)
                if node.op == "call_function" and "val" not in node.meta:
                    raise _failure(p, ctx, node, f"{node.format_node()} has no meta['val']")
        gm.graph.lint()
        if (node := unmarked(gm)) is not None:
            raise _failure(p, ctx, node, f"{node.format_node()} writes to a value that is not marked as written")
    holding -= p.destroys
    holding |= p.establishes
    for fact in sorted(holding, key=lambda fact: fact.name):
        if (broken := CHECKS[fact](gm, ctx)) is not None:
            raise _failure(p, ctx, broken[0], f"fact {fact.name} does not hold ({fact.value}): {broken[1]}")
    return PassRun(p.name, rewrites, time.perf_counter() - start)


def _failure(p: Pass, ctx: PassContext, node: fx.Node | None, text: str) -> PassError:
    error = PassError(f"pass {p.name}: {text}")
    error.origins = frozenset() if node is None else ctx.origins(node)
    return error


def _erase_dead(gm: fx.GraphModule, but: Collection[fx.Node]) -> None:
    unread = dead(gm)
    for node in reversed(gm.graph.nodes):
        if node in unread and node not in but and not node.users:
            gm.graph.erase_node(node)


def _names(facts: Collection[Fact]) -> str:
    return ", ".join(sorted(fact.name for fact in facts))
