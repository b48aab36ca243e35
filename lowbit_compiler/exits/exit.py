"""What an exit is: how a graph goes on from the waist."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from lowbit_compiler.passes.calls import Costs, LinearCosts
from lowbit_compiler.passes.contract import Fact, Pass, PassContext, Target
from lowbit_compiler.passes.site import WHOLE_KINDS, Reason


@dataclass(frozen=True)
class Exit:
    """One way on from the QDQ form, up to which all graphs are rewritten alike (lowbit_compiler/compile/rewrite.py runs both parts).

    What is made of the rewritten graph is no part of it: whoever asks for an executable or for a file has an exit of its own in hand,
    and what only that needs.
    """

    target: Target
    """What the planner may count on."""
    passes: Sequence[Pass]
    """From the QDQ form to what this exit takes."""
    conclude: Callable[[PassContext, Collection[Fact]], list[str]]
    """Called with the context and the facts that hold when all passes have run: says of every site that is left what became of it, and
    returns notes for the report."""
    costs: Costs | None = None
    """Times a softmax or attention there; None: rewritten wherever the target has a kernel."""
    linear_costs: LinearCosts | None = None
    """Times a linear there; None: rewritten as the recipe says."""
    timed: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """What both have returned so far: the seconds of each candidate, by call."""


def explain_emulated(ctx: PassContext, lacking: str) -> None:
    """Say of every planned product that no op computes what is ``lacking`` for its formats."""
    for site in ctx.planned():
        if site.plan is not None and site.plan.product is None:
            site.explain(f"no {lacking} for {site.plan.name}", site.detail)


def leaves_whole(why: str) -> Callable[[PassContext, Collection[Fact]], list[str]]:
    """Return what concludes an exit without packed ops, whose reader has softmax and attention of its own: ``why`` they stay as they are."""

    def conclude(ctx: PassContext, facts: Collection[Fact]) -> list[str]:
        for site in ctx.sites:
            if site.kind in WHOLE_KINDS and not site.found.constant:
                site.decline(Reason.KEPT_WHOLE, why)
        explain_emulated(ctx, "integer form")
        return []

    return conclude
