"""The runtime exit: packed ops of this machine's kernels, and the rest of the graph for Inductor."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.exits.exit import Exit, explain_emulated
from lowbit_compiler.options import Options
from lowbit_compiler.passes.calls import hint
from lowbit_compiler.passes.contract import Fact, PassContext
from lowbit_compiler.passes.graph import calls, numel, value
from lowbit_compiler.passes.pipeline import runtime_exit
from lowbit_compiler.passes.site import WHOLE_KINDS, Reason, Site
from lowbit_compiler.pricing.attention import measured
from lowbit_compiler.pricing.linear import measured_linear
from lowbit_compiler.pricing.machine import kernel_for, target_for
from lowbit_compiler.pricing.timing import Timer
from lowbit_compiler.runtime import kernels, library
from lowbit_compiler.runtime.timings_file import Timings
from lowbit_compiler.runtime.weights import any_freed

MANY_ROWS = 512
NOT_LOWERED = "not lowered"  # detail of a site that was planned, where the passes were stopped before its op
UNTIMED = "linears were not timed: freed weights are there in the recipe's form alone"


def runtime(options: Options, examples: Sequence[Any]) -> Exit:
    """Return the runtime exit for a graph that is called with ``examples``, on the device where these are."""
    target = target_for(examples)
    if options.plan == "always":
        return Exit(target, runtime_exit(), partial(_conclude, notes=list))
    timer = Timer(target.device, options.plan if isinstance(options.plan, Timings) else None)
    # A freed weight is there in one packed form alone: every graph must use that one, whatever its rows.
    one_form = options.free_weights or any_freed(examples)
    return Exit(
        target,
        runtime_exit(),
        partial(_conclude, notes=lambda: [*timer.notes(), *([UNTIMED] if one_form else [])]),
        costs=partial(measured, timer=timer),
        linear_costs=None if one_form else partial(measured_linear, timer=timer),
        timed=timer.asked,
    )


def _conclude(ctx: PassContext, facts: Collection[Fact], notes: Callable[[], list[str]]) -> list[str]:
    for site in ctx.sites:
        if site.reason is None and (Fact.WHOLE if site.kind in WHOLE_KINDS else Fact.LOWERED) not in facts:
            site.decline(Reason.DISABLED, NOT_LOWERED)
        site.run_by(_kernel(site))
        if site.kind == "softmax" and site.became.kernel:
            site.explain(_algorithm(site), site.detail)
    explain_emulated(ctx, "kernel")
    return notes()


def _kernel(site: Site) -> str:
    """Return the kernel that a lowered site gets here, for its dtype and rows (many, where their number is symbolic).

    The rows of an attention are those that share a key head.
    """
    if not site.lowered_to or not calls(site.node, getattr(torch.ops.lowbit, site.lowered_to).default):
        return ""
    x = value(site.node.args[0])
    rows = x.shape[2] * (x.shape[1] // value(site.node.args[1]).shape[1]) if site.kind == "attention" else numel(x.shape[:-1])
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
