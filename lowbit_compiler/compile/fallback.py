"""Graphs that are left in float whole: which, and what their reports say."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from lowbit_compiler.capture.captured import Captured
from lowbit_compiler.capture.dynamo import capture_dynamo
from lowbit_compiler.options import Options
from lowbit_compiler.passes.contract import PassContext, Target
from lowbit_compiler.passes.find import Find
from lowbit_compiler.passes.normalize import Normalize
from lowbit_compiler.passes.runner import run_passes
from lowbit_compiler.passes.site import Reason
from lowbit_compiler.recipes.training import NAMES
from lowbit_compiler.report import Report, site_report

WITHOUT_GRADIENTS = f"call the model under torch.no_grad() or torch.inference_mode(); recipes that train: {', '.join(NAMES)}"


def needs_gradient(examples: Sequence[Any]) -> bool:
    """Return whether autograd would record this graph (the same question that AOTAutograd asks)."""
    return torch.is_grad_enabled() and any(isinstance(example, Tensor) and example.requires_grad for example in examples)


def declined_report(
    captured: Captured,
    options: Options,
    reason: Reason = Reason.NEEDS_GRADIENT,
    detail: str = WITHOUT_GRADIENTS,
) -> Report:
    """Return the report of a graph that is left in float: every site found, none rewritten."""
    report = Report(options.recipe.name, fallback=reason.value)
    ctx = PassContext(options.recipe, Target(), captured.parameters, tables=captured.tables)
    report.passes = run_passes([Normalize(), Find()], captured.gm, ctx)
    for site in ctx.sites:
        site.decline(reason, detail)
    report.sites = [site_report(site) for site in ctx.sites]
    return report


def failed_report(gm: fx.GraphModule, examples: Sequence[Any], options: Options, error: str) -> Report:
    """Return the report of Dynamo's graph ``gm``, which could not be compiled; without sites where even listing them fails."""
    try:
        report = declined_report(capture_dynamo(gm, examples), options, Reason.DISABLED, error)
    except Exception:
        report = Report(options.recipe.name)
    report.fallback = error
    return report
