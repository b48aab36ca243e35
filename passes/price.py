"""Keep a planned linear only where it is faster than float here, and take a more accurate op where that is faster still."""

from dataclasses import replace

from lowbit_compiler.passes.calls import LinearCall, hint
from lowbit_compiler.passes.contract import PassContext
from lowbit_compiler.passes.graph import aten, calls, constant_sources, is_constant, numel, value
from lowbit_compiler.passes.merge import operands, siblings
from lowbit_compiler.passes.site import Reason, Site
from lowbit_compiler.passes.stored import stored
from lowbit_compiler.passes.whole import MIN_GAIN, seconds_text
from lowbit_compiler.runtime.products import ACCURATE, Plan

EXACT_ROWS = 64  # more rows are timed as the next power of two, so that few timings serve all lengths
MIN_SWITCH = 1.05  # another op than the recipe's, and with it perhaps a second packed copy of the weight, must gain this much
MIN_FEW_ROWS = 0.97  # of float's speed, at one row of a symbolic number
NEAR = 1 << 20  # bytes of float weights that stay in a cache from one call of the model to the next
CALL, PER_WEIGHT = 1e-5, 1e-6  # seconds that a call of a rewritten graph takes beside its kernels (lowbit_compiler/compile/executable.py)

Seconds = dict[str, float]


def price(ctx: PassContext) -> None:
    """Time the linears that are planned; siblings, which become one product, are decided together."""
    if ctx.linear_costs is None:
        return
    near = _bytes_read(ctx) <= NEAR
    gained = 0.0
    priced = [sites for sites in siblings(ctx) if _has_price(ctx, sites[0])]
    for number, sites in enumerate(priced, 1):
        choice, why, gain = _choice(ctx, sites, near)
        gained += gain
        for site in sites:
            if isinstance(choice, Plan):
                site.take(choice, why, timed_as=number)
            else:
                site.decline(choice, why)
    kept = [site for sites in priced for site in sites if site.lowered_to]
    call = CALL + PER_WEIGHT * len(kept)
    if gained < call:
        for site in kept:
            all_of = f"all linears together gain {seconds_text(gained)}, and each call checks their weights in {seconds_text(call)}"
            site.decline(Reason.SLOWER, f"{site.detail}, but {all_of}")


def _has_price(ctx: PassContext, site: Site) -> bool:
    """Return whether float may be faster: not of what is emulated, which only a recipe asks for, nor of a weight without float values.

    Nor of what has scales of several processes, which would not all measure the same.
    """
    shared = site.plan is not None and site.plan.w.scale.processes
    return bool(site.lowered_to) and not shared and stored(site.node.args[1], ctx.parameters) is None  # type: ignore[arg-type]


def _bytes_read(ctx: PassContext) -> int:
    """Return the bytes of the parameters that the sites' weights come from, each counted once."""
    weights = {weight for site in ctx.sites for weight in site.node.all_input_nodes if is_constant(weight, ctx.parameters)}
    sources = {source for weight in weights for source in constant_sources(weight)}
    return sum(hint(value(source).numel()) * value(source).element_size() for source in sources)


def _choice(ctx: PassContext, sites: list[Site], near: bool) -> tuple[Plan | Reason, str, float]:
    """Return the decision for siblings, its reason, and the seconds that it gains."""
    if not ctx.target.has_kernels:
        return Reason.NO_KERNEL, "the native library is not loaded, and products in plain torch are slow", 0.0
    assert ctx.linear_costs is not None
    call = replace(linear_call(sites), near=near)
    symbolic = not isinstance(numel(value(sites[0].node.args[0]).shape[:-1]), int)
    try:
        times = {rows: dict(ctx.linear_costs(replace(call, rows=rows))) for rows in ([call.rows, 1] if symbolic else [call.rows])}
    except Exception as error:  # out of memory, or whatever a kernel or torch's own op says
        return Reason.NO_KERNEL, f"not timed: {type(error).__name__}: {error}", 0.0
    plan = fastest(call.plans, times[call.rows], times.get(1, times[call.rows]))
    if plan is None:
        return Reason.SLOWER, _all_times(times[call.rows], call.rows), 0.0
    why = "; ".join(_gain(plan, call.plans[0], seconds, rows) for rows, seconds in times.items())
    return plan, why, (times[call.rows]["float"] - times[call.rows][plan.op]) * _rows(sites[0]) / call.rows


def linear_call(sites: list[Site]) -> LinearCall:
    """Return what is to be timed for siblings: at the rows of the example, with the recipe's plan first."""
    plan = sites[0].plan
    assert plan is not None
    x, weight, bias = operands(sites[0].node)
    while calls(weight, aten.to.dtype):
        weight = weight.all_input_nodes[0]
    strides = [hint(stride) for stride in value(x).stride()]
    rows = _rows(sites[0])
    return LinearCall(
        rows=rows if rows <= EXACT_ROWS else 1 << (rows - 1).bit_length(),
        k=sites[0].found.k,
        widths=tuple(sorted(site.found.n for site in sites)),
        dtype=value(x).dtype,
        stored=value(weight).dtype,
        bias=bias is not None,
        column_major=strides[-1] != 1,
        transposed=any(hint(value(site.node.args[1]).stride()[-1]) != 1 for site in sites),
        plans=(plan, *_more_accurate(plan)),
    )


def _rows(site: Site) -> int:
    return max(hint(numel(value(site.node.args[0]).shape[:-1])), 1)


def _more_accurate(plan: Plan) -> list[Plan]:
    """Return the plan that rounds least, for all but itself and those whose weights are to be read in several widths."""
    return [] if ACCURATE.op == plan.op or plan.w.format.widths else [ACCURATE]


def fastest(plans: tuple[Plan, ...], hinted: Seconds, few: Seconds) -> Plan | None:
    """Return the plan to take, None for float, from the seconds at the example's rows and at few rows.

    The example's rows decide; few rows choose among what is faster than float there. The first plan is the recipe's.
    """
    faster = [plan for plan in plans if hinted["float"] >= MIN_GAIN * hinted[plan.op]]
    if not faster:
        return None
    steady = [plan for plan in faster if few["float"] >= MIN_FEW_ROWS * few[plan.op]] or faster
    best = min(steady, key=lambda plan: hinted[plan.op])
    own = plans[0]
    return own if own in steady and hinted[own.op] <= MIN_SWITCH * hinted[best.op] else best


def _gain(plan: Plan, own: Plan, seconds: Seconds, rows: int) -> str:
    theirs = {name: seconds[name] for name in ("float", own.op) if name != plan.op}
    return f"{seconds['float'] / seconds[plan.op]:.2f}x float ({seconds_text(seconds[plan.op])}, {_all_times(theirs, rows)})"


def _all_times(seconds: Seconds, rows: int) -> str:
    times = ", ".join(f"{name} {seconds_text(time)}" for name, time in seconds.items())
    return f"{times} at {rows} row{'s' if rows > 1 else ''}"
