"""Products of which several processes compute a part each: their sum behind the product, and scales that all of them share."""

from dataclasses import dataclass
from typing import Any

from torch import fx

from lowbit_compiler.passes.graph import is_tensor, value
from lowbit_compiler.passes.notes import notes
from lowbit_compiler.passes.site import Reason, Site
from lowbit_compiler.passes.spell import name_of
from lowbit_compiler.torch_internals import collectives

OWN = "scales are each process's own"


@dataclass(frozen=True)
class Sum:
    """What follows a product of parts: the sum over the processes, and the bias, which is added once."""

    last: fx.Node
    """What the readers of the whole product read."""
    bias: fx.Node | None
    nodes: tuple[fx.Node, ...]
    """All of it, in order."""


def sum_of(node: fx.Node, groups: tuple[str, ...]) -> Sum | None:
    """Return the sum of ``node`` over ``groups`` of processes; None where there are none, and where something else is done with a part."""
    nodes: list[fx.Node] = []
    for group in groups:
        for found in (lambda user, group=group: collectives.is_sum(user.target) and user.args[1:] == ("sum", group), _is_wait):
            users = list(node.users)
            if len(users) != 1 or notes(node).written or users[0].op != "call_function" or not found(users[0]):
                return None
            node = users[0]
            nodes.append(node)
    if not nodes:
        return None
    bias = _bias(node)
    if bias is not None:
        (node,) = node.users
        nodes.append(node)
    return Sum(node, bias, tuple(nodes))


def _is_wait(node: fx.Node) -> bool:
    return collectives.is_wait(node.target)


def _bias(total: fx.Node) -> fx.Node | None:
    """Return what is added to ``total`` by capture, which took it out of the product."""
    users = list(total.users)
    if len(users) != 1 or not notes(users[0]).bias or name_of(users[0]) != "add" or notes(total).written:
        return None
    bias: Any = users[0].args[1]
    return bias if is_tensor(bias) and value(bias).dim() == 1 else None


def share(site: Site) -> str:
    """Let a planned product of parts have scales that the processes share; returns what the report says of it.

    What decides is the same in all processes: sizes, the plan, and what the graph does with the product.
    """
    plan, parts = site.plan, notes(site.node).parts
    if plan is None:
        return ""
    if parts is None:
        return notes(site.node).apart and f"{OWN}: {notes(site.node).apart}"
    shared, span = plan.over(parts.groups), plan.treatment.span
    if shared is None:
        return f"{OWN}: none are shared by {plan.name}"
    if site.found.k % span:
        return f"{OWN}: K / {parts.processes} = {site.found.k} is no multiple of {span}, the columns that are rotated together"
    if sum_of(site.node, parts.groups) is None:
        return f"{OWN}: something else than the sum reads its parts"
    largest = None if shared.product is None else shared.product.largest_k
    if largest is not None and site.found.k * parts.processes > largest:
        site.decline(Reason.TOO_LONG, f"K = {site.found.k * parts.processes} in {parts.processes} parts; up to {largest}")
        return ""
    site.take(shared)
    return f"scales are shared by {parts.processes} processes"
