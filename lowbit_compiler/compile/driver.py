"""Dynamo's graph compiled: captured, rewritten, finished; and left in float where something fails."""

import contextlib
import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from lowbit_compiler.capture.captured import Captured
from lowbit_compiler.capture.dynamo import capture_dynamo
from lowbit_compiler.capture.localize import Localized
from lowbit_compiler.compile.fallback import WITHOUT_GRADIENTS, declined_report, failed_report, needs_gradient
from lowbit_compiler.compile.finish import finish
from lowbit_compiler.compile.history import remember
from lowbit_compiler.compile.places import Seen, compile_places
from lowbit_compiler.compile.remainder import compile_remainder, on_cpu
from lowbit_compiler.compile.rewrite import rewrite
from lowbit_compiler.compile.training import compile_training, training_recipe
from lowbit_compiler.errors import OptionError, WeightFreedError
from lowbit_compiler.options import Options
from lowbit_compiler.passes.contract import Pass
from lowbit_compiler.passes.notes import notes
from lowbit_compiler.passes.plan import PlanSites
from lowbit_compiler.passes.runner import PassRun
from lowbit_compiler.report import Report
from lowbit_compiler.runtime import library
from lowbit_compiler.torch_internals import dynamo, inductor

log = logging.getLogger("lowbit_compiler")
KEPT = "free_weights releases nothing of a model with sharded weights: a DTensor does not refuse to be read once its memory is gone"


@contextlib.contextmanager
def _unsearched() -> Iterator[None]:
    """Let the garbage collector leave out what is there now: Dynamo's trace is millions of objects, a quarter of a second for each search.

    What is made meanwhile is collected as always. Where somebody else has frozen objects, before or meanwhile, they stay so: there is one such set.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    mark: list[None] = []  # frozen with the rest where somebody else freezes; counting would walk all that is frozen
    try:
        yield
    finally:
        if any(each is mark for generation in range(3) for each in gc.get_objects(generation)):
            gc.unfreeze()


@_unsearched()
def compile_dynamo(gm: fx.GraphModule, examples: Sequence[Any], options: Options, seen: Seen | None = None) -> Callable[..., Any]:
    """Compile Dynamo's graph: rewritten where the recipe allows, whole in float where gradients are needed or a pass fails.

    ``seen`` is called with the context of the passes once the graph is rewritten; where compiling it then fails, it is left in float.
    """
    start, strict = time.perf_counter(), options.verify
    library.warn_if_missing()
    try:
        recipe = training_recipe(examples, options)
        if recipe is not None:
            compiled, report = compile_training(gm, examples, recipe, options)
        elif needs_gradient(examples):
            report = declined_report(capture_dynamo(gm, examples), options)
            log.warning("a graph that needs gradients is not quantized by recipe %r: %s", options.recipe.name, WITHOUT_GRADIENTS)
            compiled = compile_remainder(gm, examples, options.remainder, options.mode)
        else:
            with dynamo.held_floats_constant(gm):
                local = Localized(gm, examples, options.tp_scales == "shared")
                strict |= local.summed  # the other processes would wait for this one, or take its float sums for something else
                compiled, (*elsewhere, report) = _compile_local(local, options, seen)
            for other in elsewhere:
                remember(other)
            if options.modules == "frozen":
                dynamo.freeze_modules()
    except (OptionError, WeightFreedError, dynamo.restart()):  # the last: Dynamo traces again, with Python floats as constants
        raise
    except Exception as error:
        if strict:
            raise
        log.warning("the graph is left whole to %s: %s: %s", options.remainder, type(error).__name__, error)
        report = failed_report(gm, examples, options, f"{type(error).__name__}: {error}")
        compiled = compile_remainder(gm, examples, options.remainder, options.mode)
    remember(report)
    _log(report)
    log.info("%s, %.1f s", report.summary(), time.perf_counter() - start)
    return compiled


def _compile_local(local: Localized, options: Options, seen: Seen | None) -> tuple[Callable[..., Any], list[Report]]:
    """Compile what this process computes of the graph, and return that as a function of the inputs of all."""
    keeps = options.free_weights and local.sharded
    if keeps:
        options = replace(options, free_weights=False)
    run, reports = compile_places(local.gm, local.examples, options, compile_captured, seen)
    if keeps:
        reports[-1].notes.append(KEPT)
        log.warning("%s", KEPT)
    return local.bind(run), reports


def compile_captured(
    captured: Captured, examples: Sequence[Any], options: Options, seen: Seen | None = None
) -> tuple[Callable[..., Any], Report]:
    """Rewrite ``captured`` and compile the remainder; raises what fails, where :func:`compile_dynamo` falls back."""
    placeholders = captured.gm.graph.find_nodes(op="placeholder")
    inputs, gathered = [node.name for node in placeholders], {node.name for node in placeholders if notes(node).passing}
    ctx, report = rewrite(captured, options, examples, *([] if options.remainder == "eager" else [_probe]))
    if seen is not None:
        seen(ctx)
    return finish(captured.gm, inputs, ctx, examples, options, report, gathered), report


def _probe(p: Pass, run: PassRun, gm: fx.GraphModule) -> None:
    """Let what Inductor asks of the machine be found out beside the passes: once all is timed, which that would disturb."""
    if p.name == PlanSites.name and on_cpu(gm):
        inductor.probe()


def _log(report: Report) -> None:
    """Say what each pass did and each site became, for TORCH_LOGS="+lowbit_compiler"."""
    for run in report.passes:
        what = f"skipped: {run.skipped}" if run.skipped else f"{run.rewrites} rewrites"
        log.debug("pass %s: %s, %.0f ms", run.name, what, run.seconds * 1e3)
    for site in report.sites:
        why = "; ".join(filter(None, (site.lowered_to or site.reason, site.detail, site.kernel)))
        log.debug("%s %s %s %s: %s", site.decision, site.module, site.op, site.shape, why)
