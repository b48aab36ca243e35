"""The report's three rows of a linear that trains: what its forward product, dX and dW multiply, or why they do not."""

from dataclasses import replace

from lowbit_compiler.passes.graph import numel
from lowbit_compiler.passes.site import Reason, Site
from lowbit_compiler.pricing.machine import kernel_for
from lowbit_compiler.report import SiteReport, site_report
from lowbit_compiler.runtime.training.plan import FORWARD, GRAD_INPUT, GRAD_WEIGHT, TrainingPlan

MANY_ROWS = 512
OPS = {FORWARD: "lowbit::train_linear", GRAD_INPUT: "lowbit::train_grad_input", GRAD_WEIGHT: "lowbit::train_grad_weight"}


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
