"""The report's three rows of a linear that trains: what its forward product, dX and dW multiply, or why they do not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import fx

from lowbit_compiler.passes.graph import numel
from lowbit_compiler.passes.site import Reason, Site
from lowbit_compiler.pricing.machine import kernel_for
from lowbit_compiler.report import SiteReport, site_report
from lowbit_compiler.runtime.training.plan import FORWARD, GRAD_INPUT, GRAD_WEIGHT, TrainingPlan

MANY_ROWS = 512
OPS = {FORWARD: "lowbit::train_linear", GRAD_INPUT: "lowbit::train_grad_input", GRAD_WEIGHT: "lowbit::train_grad_weight"}

STEPPED, SITE = "lowbit::train_grad_stepped", 4
"""The op of both gradients where step sizes are learned, and where all ops have the number of their linear."""


def rows(site: Site, plan: TrainingPlan, unneeded: dict[str, str]) -> list[SiteReport]:
    """Return a row for each product of ``site``, or for a linear in float the one of its reason.

    ``unneeded`` says why nobody asks for the result of a backward product.
    """
    row = site_report(site)
    if site.reason is not None:
        return [row]
    made = []
    for product, op in OPS.items():
        own = replace(row, op=f"linear {product}", detail=plan.names[product])
        if product in unneeded:
            made.append(replace(own, decision="declined", reason=Reason.UNUSED.value, detail=unneeded[product]))
        else:
            made.append(replace(own, decision="rewritten", lowered_to=op, kernel=_kernel(site, plan.kernels.get(product))))
    return made


def _kernel(site: Site, op: str | None) -> str:
    """Return what multiplies, for the rows of the forward product (many, where their number is symbolic)."""
    if op is None:
        return "reference"
    y = site.node.meta["example_value"]
    rows = numel(y.shape[:-1])
    return kernel_for(op, rows if isinstance(rows, int) else MANY_ROWS, y.shape[-1], y.dtype, y.device.type)


@dataclass(frozen=True)
class Called:
    """A node by its name; "" where the row has none in the graph."""

    name: str


class Row:
    """Where a row of the report is in the graph that is looked at."""

    def __init__(self, site: SiteReport) -> None:
        self.call = Called(site.node)


def placed(report: Sequence[SiteReport], rewritten: fx.GraphModule) -> tuple[list[Row], list[tuple[int, str]]]:
    """Return the rows of a report, and of each row the site of its op in ``rewritten`` and the name of its op; -1 where it has none."""
    graphs = [module for module in rewritten.modules() if isinstance(module, fx.GraphModule)]
    sites = iter(sorted({site for graph in graphs for _, _, site in _ops(graph)}))
    keys, now = [], -1
    for site in report:
        op = site.lowered_to.partition("::")[2]
        now = next(sites) if op == "train_linear" else now
        keys.append((now if op else -1, op))
    return [Row(site) for site in report], keys


def move(rows: Sequence[Row], keys: Sequence[tuple[int, str]], gm: fx.GraphModule) -> None:
    """Let each row be at its own op in the joint graph ``gm``."""
    names = {(site, op): node.name for node, op, site in reversed(list(_ops(gm)))}
    for row, key in zip(rows, keys, strict=True):
        row.call = Called(names.get(key, ""))


def _ops(gm: fx.GraphModule) -> Iterator[tuple[fx.Node, str, int]]:
    """Yield the ops of training in ``gm``, as rows call them, with their sites."""
    for node in gm.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        name = "" if schema is None else str(schema.name)
        if name == STEPPED:
            name = OPS[GRAD_WEIGHT if node.args[-1] else GRAD_INPUT]
        if name in OPS.values():
            yield node, name.removeprefix("lowbit::"), node.args[SITE]
