"""The one way from a captured graph to a rewritten one: the passes up to the waist, those of an exit, and the report of both."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import fx

from lowbit_compiler.capture.captured import Captured
from lowbit_compiler.compile.attempts import attempts, notes
from lowbit_compiler.compile.verify import Verifier
from lowbit_compiler.dump import Subject, recording
from lowbit_compiler.exits.exit import Exit
from lowbit_compiler.exits.runtime import runtime
from lowbit_compiler.exits.torch_tensorrt.exit import takes, torch_tensorrt
from lowbit_compiler.options import Options
from lowbit_compiler.passes.contract import Fact, Pass, PassContext
from lowbit_compiler.passes.notes import notes as notes_of
from lowbit_compiler.passes.pipeline import waist
from lowbit_compiler.passes.runner import Observer, PassRun, run_passes
from lowbit_compiler.report import Report, site_report


def rewrite(captured: Captured, options: Options, examples: Sequence[Any], *observers: Observer) -> tuple[PassContext, Report]:
    """Rewrite ``captured.gm``, which is called with ``examples``, for the runtime, or for engines where these are asked for; as :func:`through`."""
    exit = torch_tensorrt(examples) if takes(options, examples) else runtime(options, examples)
    return through(exit, captured, options, examples, *observers)


def through(
    exit: Exit, captured: Captured, options: Options, examples: Sequence[Any] | None = None, *observers: Observer
) -> tuple[PassContext, Report]:
    """Run the passes over ``captured.gm`` in place, up to ``exit``; returns the context and the report. ``observers`` are told of each pass.

    Where a pass fails at one call, that call is left in float. Writes the dump and verifies each pass on ``examples`` (None: not on
    values), where the options ask for it; then what fails raises PassError at once, as does what fails at no call in particular.
    """
    strict = options.verify or any(
        notes_of(node).parts is not None for node in captured.gm.graph.nodes
    )  # what one process refuses, all would have to
    return attempts(captured.gm, lambda refused: _once(exit, captured, options, examples, refused, observers), strict)


def _once(
    exit: Exit,
    captured: Captured,
    options: Options,
    examples: Sequence[Any] | None,
    refused: dict[str, str],
    others: Sequence[Observer],
) -> tuple[PassContext, Report]:
    observers = list(others)
    if options.verify and examples is not None:
        observers.insert(0, Verifier(captured.gm, examples, options.recipe.least_sqnr).observe)
    ctx = _context(exit, captured, options, refused)
    facts: set[Fact] = set()
    subject = Subject(ctx.recipe.name, ctx.parameters, ctx.sites)
    with recording(options.dump, captured.gm, subject, f"the {captured.by} graph") as record:
        if record is not None:
            observers.insert(0, record.observe)
        runs = run_passes(
            [*waist(), *exit.passes],
            captured.gm,
            ctx,
            facts=facts,
            disable=options.disable,
            stop_after=options.stop_after,
            observe=partial(_observe, observers),
            strict=options.verify,
        )
    added = exit.conclude(ctx, facts)
    report = Report(
        options.recipe.name,
        sites=[site_report(site) for site in ctx.sites],
        passes=runs,
        notes=[*notes(refused), *added],
        timed={call: dict(seconds) for call, seconds in exit.timed.items()},
    )
    if record is not None:
        record.finish(report)
    return ctx, report


def _context(exit: Exit, captured: Captured, options: Options, refused: dict[str, str]) -> PassContext:
    return PassContext(
        recipe=options.recipe,
        target=exit.target,
        parameters=captured.parameters,
        costs=exit.costs,
        linear_costs=exit.linear_costs,
        ignore=options.ignore,
        max_rewrites=options.max_rewrites,
        known_names=captured.known_names,
        other_names=captured.other_names,
        all_known=captured.all_known,
        tables=captured.tables,
        quantize_tables=options.buffers == "quantized",
        refused=refused,
    )


def _observe(observers: Sequence[Observer], p: Pass, run: PassRun, gm: fx.GraphModule) -> None:
    for observer in observers:
        observer(p, run, gm)
