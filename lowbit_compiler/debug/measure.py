"""Every low-bit product of a model beside the float64 product of the same operands, in the model's report."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.debug.switched import Switch, Switched
from lowbit_compiler.debug.tally import Tally
from lowbit_compiler.options import parse
from lowbit_compiler.recipes import DEFAULT, Recipe
from lowbit_compiler.report import Report
from lowbit_compiler.runtime.products import Stored


def measure(model: Callable[..., Any], *inputs: Any, recipe: str | Recipe = DEFAULT, **options: Any) -> Report:
    """Return the report of ``explain`` with ``measured`` for each low-bit product: its SQNR, error and certificate on ``inputs``.

    The model runs once in float, and each product twice on what it is given there, low-bit and in float64. The rest is as in ``explain``;
    raises OptionError also for ``free_weights``, a recipe that trains and for passes disabled by the environment.
    """
    switched = Switched(model, parse({"recipe": recipe, **options}))
    with switched.running(), torch.no_grad():
        tallies = tally(switched, lambda: switched(*inputs))
        return filled(switched, {product: each.measured() for product, each in tallies.items()})


def tally(switched: Switched, run: Callable[[], Any]) -> dict[Switch, Tally]:
    """Call ``run`` and return what each product showed meanwhile."""
    tallies: dict[Switch, Tally] = defaultdict(Tally)

    def watch(product: Switch, x: Tensor, weight: Tensor, bias: Tensor | None, stored: Stored, low: Tensor) -> None:
        tallies[product].add(x, weight, bias, product.plan, stored, low)

    switched.watch = watch
    try:
        run()
    finally:
        switched.watch = None
    return tallies


def filled(switched: Switched, measured: dict[Switch, Any]) -> Report:
    """Return the report with what was measured of each product."""
    report = switched.report
    for product, row in measured.items():
        site = report.sites[product.row]
        if site.decision != "declined":
            report.sites[product.row] = replace(site, measured=row)
    return report
