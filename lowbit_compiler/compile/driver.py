"""One compilation: capture, passes, remainder, weights; and what to do when one of them fails."""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from lowbit_compiler.capture.captured import Captured
from lowbit_compiler.capture.dynamo import capture_dynamo
from lowbit_compiler.compile.attempts import attempts, notes
from lowbit_compiler.compile.executable import Executable
from lowbit_compiler.compile.places import Seen, compile_places
from lowbit_compiler.compile.remainder import compile_remainder
from lowbit_compiler.compile.verify import Verifier
from lowbit_compiler.dump import recording
from lowbit_compiler.errors import OptionError, WeightFreedError
from lowbit_compiler.options import Options
from lowbit_compiler.passes.calls import hint
from lowbit_compiler.passes.contract import Fact, Pass, PassContext, Target
from lowbit_compiler.passes.find import Find
from lowbit_compiler.passes.graph import calls, numel, value
from lowbit_compiler.passes.normalize import Normalize
from lowbit_compiler.passes.pipeline import runtime_exit, waist
from lowbit_compiler.passes.runner import Observer, PassRun, run_passes
from lowbit_compiler.passes.site import Reason, Site
from lowbit_compiler.pricing.attention import measured
from lowbit_compiler.pricing.linear import measured_linear
from lowbit_compiler.pricing.machine import kernel_for, target_for
from lowbit_compiler.report import Report, site_report
from lowbit_compiler.runtime import kernels, library
from lowbit_compiler.runtime.weights import any_freed
from lowbit_compiler.torch_internals import dynamo

log = logging.getLogger("lowbit_compiler")
REMEMBERED = 100  # reports; a server that recompiles for days must not keep them all
MANY_ROWS = 512
NOT_LOWERED = "not lowered"  # detail of a site that was planned, where the passes were stopped before its op
WHOLE_KINDS = ("softmax", "attention")
_reports: list[Report] = []


def last_report() -> Report:
    """Return the report of the newest compilation; raises LookupError where nothing was compiled yet."""
    if not _reports:
        raise LookupError("nothing was compiled with backend='lowbit' in this process yet")
    return _reports[-1]


def rewrite(captured: Captured, options: Options, examples: Sequence[Any]) -> tuple[PassContext, Report]:
    """Run the passes over ``captured.gm`` in place, up to the runtime exit; returns the context and the report.

    Where a pass fails at one call, that call is left in float. Writes the dump and verifies each pass on ``examples``, where the options
    ask for it; then what fails raises PassError at once, as does what fails at no call in particular.
    """
    return attempts(captured.gm, lambda refused: _rewrite(captured, options, examples, refused), options.verify)


def _rewrite(captured: Captured, options: Options, examples: Sequence[Any], refused: dict[str, str]) -> tuple[PassContext, Report]:
    observers: list[Observer] = [Verifier(captured.gm, examples).observe] if options.verify else []
    # A freed weight is there in one packed form alone: every graph must use that one, whatever its rows.
    one_form = options.free_weights or any_freed(examples)
    target = target_for(examples)
    ctx = PassContext(
        recipe=options.recipe,
        target=target,
        parameters=captured.parameters,
        costs=_on(target, measured) if options.plan == "measured" else None,
        linear_costs=_on(target, measured_linear) if options.plan == "measured" and not one_form else None,
        ignore=options.ignore,
        max_rewrites=options.max_rewrites,
        known_names=captured.known_names,
        other_names=captured.other_names,
        all_known=captured.all_known,
        tables=captured.tables,
        quantize_tables=options.buffers == "quantized",
        refused=refused,
    )
    facts: set[Fact] = set()
    with recording(options.dump, captured.gm, ctx, "the captured graph") as record:
        if record is not None:
            observers.insert(0, record.observe)
        runs = run_passes(
            waist() + runtime_exit(),
            captured.gm,
            ctx,
            facts=facts,
            disable=options.disable,
            stop_after=options.stop_after,
            observe=partial(_observe, observers),
            strict=options.verify,
        )
    for site in ctx.sites:
        if site.reason is None and (Fact.WHOLE if site.kind in WHOLE_KINDS else Fact.LOWERED) not in facts:
            site.decline(Reason.DISABLED, NOT_LOWERED)
    for site in ctx.sites:
        site.run_by(_kernel(site))
        if site.kind == "softmax" and site.became.kernel:
            site.explain(_algorithm(site), site.detail)
    report = Report(options.recipe.name, sites=[site_report(site) for site in ctx.sites], passes=runs, notes=notes(refused))
    if one_form and options.plan == "measured":
        report.notes.append("linears were not timed: freed weights are there in the recipe's form alone")
    if record is not None:
        record.finish(report)
    return ctx, report


def _observe(observers: Sequence[Observer], p: Pass, run: PassRun, gm: fx.GraphModule) -> None:
    for observer in observers:
        observer(p, run, gm)


def _on(target: Target, measure: Callable[..., Any]) -> Callable[..., Any]:
    return measure if target.device == "cpu" else partial(measure, device=target.device)


def _kernel(site: Site) -> str:
    """Return the kernel that a lowered site gets here, for its dtype and rows (many, where their number is symbolic).

    The rows of an attention are those that share a key head.
    """
    if not site.lowered_to or not calls(site.node, getattr(torch.ops.lowbit, site.lowered_to).default):
        return ""
    x = value(site.node.args[0])
    rows = x.shape[2] * (x.shape[1] // value(site.node.args[1]).shape[1]) if site.lowered_to == "sdpa" else numel(x.shape[:-1])
    n = value(site.node).shape[-1] if isinstance(value(site.node), Tensor) else 0
    return kernel_for(site.lowered_to, rows if isinstance(rows, int) else MANY_ROWS, hint(n), x.dtype, x.device.type)


def _algorithm(site: Site) -> str:
    """Return which softmax rows of this length get, where the library has more than one: not for rows that lie side by side."""
    x, dim = value(site.node.args[0]), site.node.args[1]
    if x.device.type != "cpu" or library.status().path is None or any(hint(size) != 1 for size in x.shape[dim % x.dim() + 1 :]):
        return ""
    n = hint(x.shape[dim])
    name = kernels.softmax_passes(n, x.dtype, value(site.node).dtype)
    return f"{name}: {n} elements a row {'stay in' if name == 'three-pass' else 'do not fit the'} cache"


def _remember(report: Report) -> None:
    _reports.append(report)
    del _reports[:-REMEMBERED]


def needs_gradient(examples: Sequence[Any]) -> bool:
    """Return whether autograd would record this graph (the same question that AOTAutograd asks)."""
    return torch.is_grad_enabled() and any(isinstance(example, Tensor) and example.requires_grad for example in examples)


def compile_dynamo(gm: fx.GraphModule, examples: Sequence[Any], options: Options, seen: Seen | None = None) -> Callable[..., Any]:
    """Compile Dynamo's graph: rewritten where the recipe allows, whole in float where gradients are needed or a pass fails.

    ``seen`` is called with the context of the passes once the graph is rewritten; where compiling it then fails, it is left in float.
    """
    start = time.perf_counter()
    try:
        if needs_gradient(examples):
            report = declined_report(capture_dynamo(gm, examples), options)
            log.warning(
                "a graph that needs gradients is not quantized; for inference call the model under torch.no_grad() or inference_mode()"
            )
            compiled = compile_remainder(gm, examples, options.remainder, options.mode)
        else:
            compiled, (*elsewhere, report) = compile_places(gm, examples, options, compile_captured, seen)
            for other in elsewhere:
                _remember(other)
    except (OptionError, WeightFreedError, dynamo.restart()):  # the last: Dynamo traces again, with Python floats as constants
        raise
    except Exception as error:
        if options.verify:
            raise
        log.warning("the graph is left whole to %s: %s: %s", options.remainder, type(error).__name__, error)
        report = _fallback_report(gm, examples, options, f"{type(error).__name__}: {error}")
        compiled = compile_remainder(gm, examples, options.remainder, options.mode)
    _remember(report)
    _log(report)
    log.info("%s, %.1f s", report.summary(), time.perf_counter() - start)
    return compiled


def _log(report: Report) -> None:
    """Say what each pass did and each site became, for TORCH_LOGS="+lowbit_compiler"."""
    for run in report.passes:
        what = f"skipped: {run.skipped}" if run.skipped else f"{run.rewrites} rewrites"
        log.debug("pass %s: %s, %.0f ms", run.name, what, run.seconds * 1e3)
    for site in report.sites:
        why = "; ".join(filter(None, (site.lowered_to or site.reason, site.detail, site.kernel)))
        log.debug("%s %s %s %s: %s", site.decision, site.module, site.op, site.shape, why)


def compile_captured(
    captured: Captured, examples: Sequence[Any], options: Options, seen: Seen | None = None
) -> tuple[Callable[..., Any], Report]:
    """Rewrite ``captured`` and compile the remainder; raises what fails, where :func:`compile_dynamo` falls back."""
    inputs = [node.name for node in captured.gm.graph.nodes if node.op == "placeholder"]
    ctx, report = rewrite(captured, options, examples)
    if seen is not None:
        seen(ctx)
    return _finish(captured.gm, inputs, ctx, examples, options, report), report


def _finish(
    gm: fx.GraphModule, inputs: list[str], ctx: PassContext, examples: Sequence[Any], options: Options, report: Report
) -> Callable[..., Any]:
    """Load the weights of the rewritten graph and compile its remainder.

    In this order, so that Inductor's memory takes the place of released weights. Raises WeightFreedError where something fails after
    float weights are gone: there is no float graph to fall back to.
    """
    for node in gm.graph.nodes:
        if "val" in node.meta:
            node.meta["example_value"] = node.meta["val"]  # Inductor's passes over Dynamo graphs look here
    gm.recompile()
    names = [node.name for node in gm.graph.nodes if node.op == "placeholder"]
    example = dict(zip(inputs, examples, strict=True))
    values = {node.name: node.meta["val"] for node in gm.graph.nodes if node.op == "placeholder" and node.name not in example}
    executable = Executable(inputs, names, ctx.constants, frozen=options.weights == "frozen", release=options.free_weights)
    try:
        executable.load(examples)
        weights = {name for name in names if name in ctx.parameters or name not in example}
        given = [example[n] if n in example else values[n] for n in names]
        executable.inner = compile_remainder(gm, given, options.remainder, options.mode, weights)
    except (WeightFreedError, dynamo.restart()):
        raise
    except Exception as error:
        if executable.released:
            raise WeightFreedError(
                f"free_weights=True had released {executable.released / 1e6:.1f} MB of float weights when compiling failed; load the model "
                f"anew, and compile without free_weights: {type(error).__name__}: {error}"
            ) from error
        raise
    if executable.released:
        report.notes.append(
            f"free_weights released {executable.released / 1e6:.1f} MB of float weights: state_dict(), saving, eager calls and a second "
            "recipe need them"
        )
        log.warning("%s", report.notes[-1])
    return executable


def declined_report(
    captured: Captured,
    options: Options,
    reason: Reason = Reason.NEEDS_GRADIENT,
    detail: str = "call the model under torch.no_grad() or torch.inference_mode()",
) -> Report:
    """Return the report of a graph that is left in float: every site found, none rewritten."""
    report = Report(options.recipe.name, fallback=reason.value)
    ctx = PassContext(options.recipe, Target(), captured.parameters, tables=captured.tables)
    report.passes = run_passes([Normalize(), Find()], captured.gm, ctx)
    for site in ctx.sites:
        site.decline(reason, detail)
    report.sites = [site_report(site) for site in ctx.sites]
    return report


def _fallback_report(gm: fx.GraphModule, examples: Sequence[Any], options: Options, error: str) -> Report:
    """Return the report of a graph that some pass failed on; without sites where even listing them fails."""
    try:
        report = declined_report(capture_dynamo(gm, examples), options, Reason.DISABLED, error)
    except Exception:
        report = Report(options.recipe.name)
    report.fallback = error
    return report
