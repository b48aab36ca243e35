"""What GPTQ's settings are worth layer by layer: error of the outputs of three blocks of SmolLM2 off its grid, on text that was not calibrated with.

    python bench/accuracy/gptq.py [--weights int4] [--group-size 32] [--blocks 2 12 24]

Numbers are E H E^T over W H W^T of all linears of these blocks, as geometric means, relative to rounding to nearest without data: H is that of
the calibration texts (bench/accuracy/calibration.py), or of the two texts that bench/accuracy/int4.py judges by. Hessians are those of the float
model, and every fourth row of each weight is taken.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import subjects
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

from lowbit_compiler.preparing import gptq as method
from lowbit_compiler.preparing.gptq import column_by_column, factor
from lowbit_compiler.preparing.hessian import Inputs, watched
from lowbit_compiler.preparing.layer import layers
from lowbit_compiler.preparing.refine import refined
from lowbit_compiler.recipes import Recipe
from lowbit_compiler.runtime.formats import Operand
from lowbit_compiler.runtime.treatments import TREATMENTS
from lowbit_compiler.runtime.treatments.treatment import at_once

EVERY, JUDGED = 4, 2
"""Rows of weights of which one is taken; windows of each text that is judged by."""
NEAREST = "nearest"
SCHEMES: dict[str, tuple[str, float, float, bool]] = {
    NEAREST: ("none", math.nan, 0.0, False),
    "gptq, damping of 0.01 (the paper's)": ("none", 0.01, 0.0, False),
    "gptq, damping of 0.1": ("none", 0.1, 0.0, False),
    "gptq, 0.01 and 0.03 of its own": ("none", 0.01, 0.03, False),
    "gptq, 0.01 and 0.1 of its own": ("none", 0.01, 0.1, False),
    "gptq, 0.01 and 0.3 of its own": ("none", 0.01, 0.3, False),
    "the paper's, coordinate descent": ("none", 0.01, 0.0, True),
    "0.1 of its own, coordinate descent": ("none", 0.01, 0.1, True),
    "0.3 of its own, coordinate descent": ("none", 0.01, 0.3, True),
    "rotation, the paper's": ("rotation", 0.01, 0.0, False),
    "rotation, 0.1 of its own, coordinate descent": ("rotation", 0.01, 0.1, True),
}
"""By name: treatment, damping of each element of H's diagonal (of its mean, and of the element itself), and whether coordinate descent follows."""


class _Enough(Exception):
    """Ends a run of the model."""


def inputs_of(subject: subjects.Subject, recipe: Recipe, blocks: list[int]) -> dict[str, list[Inputs]]:
    """Return what the linears of some blocks read, by the kind of text."""
    network: Any = subject.network
    wanted = [layer for layer in layers(network, recipe) if any(f".layers.{at}." in layer.name for at in blocks)]

    def enough(*args: object) -> None:
        raise _Enough

    hook = network.model.layers[max(blocks) + 1].register_forward_pre_hook(enough)
    texts = {"calibration": subject.calibration}
    texts |= {
        name: [ids for sample in samples for ids in sample.inputs["input_ids"].split(1)][:JUDGED] for name, samples in subject.texts.items()
    }
    found = {}
    for name, windows in texts.items():
        with watched(wanted) as found[name]:
            for ids in windows:
                try:
                    network.model(ids, use_cache=False)
                except _Enough:
                    pass
    hook.remove()
    return found


def parts_of(weight: Tensor, hessian: Tensor, operand: Operand, damping: float, own: float, descent: bool) -> tuple[Tensor, ...]:
    """Return the parts that a scheme makes of a treated weight."""
    if math.isnan(damping):
        return operand.quantize(weight)
    method.DAMPING, method.OWN = damping, own
    found = factor(hessian)
    assert found is not None
    parts = column_by_column(weight, found, operand)
    damped = hessian.clone()
    damped.diagonal().copy_(found[0])
    return refined(weight, parts, damped, operand) if descent else parts


def lost(weight: Tensor, parts: tuple[Tensor, ...], hessian: Tensor, operand: Operand) -> float:
    """Return the squared error of outputs over their squares."""
    w, h = weight.double(), hessian.double()
    error = operand.dequantize(parts).double() - w
    return float(((error @ h) * error).sum() / ((w @ h) * w).sum())


def measured(
    found: dict[str, list[Inputs]], operand: Operand, treatment: str, damping: float, own: float, descent: bool
) -> dict[str, list[float]]:
    """Return the errors of all inputs' linears, by the kind of text."""
    one = TREATMENTS[treatment]()
    errors: dict[str, list[float]] = {name: [] for name in found}
    for number, seen in enumerate(found["calibration"]):
        weight = torch.cat([layer.module.weight for layer in seen.layers])[::EVERY].float()
        treated: Callable[[Tensor], Tensor] = lambda w: one.weight(at_once, w.contiguous())
        parts = parts_of(treated(weight), seen.treated(one), operand, damping, own, descent)
        for name, inputs in found.items():
            errors[name].append(lost(treated(weight), parts, inputs[number].treated(one), operand))
    return errors


@torch.no_grad()
def main() -> None:
    """Measure all schemes, write the result file, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="int4")
    parser.add_argument("--group-size", type=int, default=32)
    parser.add_argument("--blocks", type=int, nargs="+", default=[2, 12, 24])
    args = parser.parse_args()
    console = Console()
    recipe = Recipe("weights", weights=args.weights, activations="float", group_size=args.group_size)
    found = inputs_of(subjects.off(JUDGED * 2 * subjects.WINDOW, console), recipe, args.blocks)
    table, rows, first = Table("", *found), dict[str, dict[str, float]](), dict[str, list[float]]()
    for name, scheme in SCHEMES.items():
        errors = measured(found, recipe.plan.w, *scheme)
        first = first or errors
        rows[name] = {
            text: math.exp(sum(math.log(a / b) for a, b in zip(errors[text], first[text], strict=True)) / len(first[text]))
            for text in found
        }
        table.add_row(name, *(f"{value:.3f}" for value in rows[name].values()))
    console.print(table)
    common.write("gptq.json", {"about": common.about(weights=args.weights, group_size=args.group_size, blocks=args.blocks), "rows": rows})


if __name__ == "__main__":
    main()
