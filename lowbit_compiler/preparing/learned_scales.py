"""Scales of rows that serve several widths at once (Double Rounding, arXiv 2502.01199): learned at rates and in mixtures made for that."""

import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowbit_compiler.errors import OptionError
from lowbit_compiler.preparing.block import Block
from lowbit_compiler.preparing.hessian import treated
from lowbit_compiler.preparing.layer import Layer, replaced
from lowbit_compiler.preparing.learning import error, gradients, product, rounded, turns, wanted
from lowbit_compiler.preparing.method import Method
from lowbit_compiler.recipes import Recipe

LEAST = 0.01
"""What is left of a rate at least: as printed, equation 6 turns it negative where gradients are large."""


def width_rate(drop: int) -> float:
    """Return eta, the rate of the width that is ``drop`` bits below the largest (equation 7): 1, 0.5, 0.1, 0.05, 0.01, ..."""
    return float(10.0 ** (-drop / 2) if drop % 2 == 0 else 5 * 10.0 ** (-(drop + 1) / 2))


def adaptive_rate(rate: float, drop: int, found: Sequence[Tensor]) -> float:
    """Return the rate of a step with the gradients ``found``, one tensor a layer: eta rate max(LEAST, 1 - their mean largest magnitude, clipped to 1)."""
    largest = [min(float(gradient.abs().max()), 1.0) for gradient in found]
    return width_rate(drop) * rate * max(LEAST, 1.0 - sum(largest) / max(len(largest), 1))


@dataclass(frozen=True)
class LearnedScales(Method):
    """s = s_0 exp(r) for each row, r learned so that the block returns what it did in each of the widths (sections 3.2 and 3.3).

    In a step every width has its turn, with an update of its own (ALRS). In a width's turn a layer has another one with a chance that rises to
    ``mixed`` (HASB): any of them, or, where its outputs depend much on its weights (trace of H above the mean), the wider the more likely.
    In the paper a step is one of Adam over many epochs; here its averages of gradients are left out, as they would carry those of one width
    into the step of another, at a hundred times their rate.
    """

    steps: int = 200
    rate: float = 0.1
    mixed: float = 0.5

    name = "learned_scales"
    rounds = True

    def check(self, recipe: Recipe) -> None:
        """Raise OptionError for weights of one width."""
        if not recipe.plan.w.format.widths:
            raise OptionError(f"{self.name} takes weights whose bits can be switched, and recipe {recipe.name!r} has {recipe.plan.w.name}")

    def apply(self, block: Block) -> None:
        """Learn the scales of all linears of the block that read something, and give them codes of the largest width."""
        traces = {
            layer: float(treated(inputs.hessian, layer.plan.treatment).diagonal().mean())
            for inputs in block.inputs()
            for layer in inputs.layers
            if layer.plan.w.format.widths
        }
        if not traces:
            return
        mean = sum(traces.values()) / len(traces)
        learned = [_Learned(layer, trace >= mean) for layer, trace in traces.items()]
        targets = wanted(block)
        with torch.enable_grad(), contextlib.ExitStack() as stack:
            for each in learned:
                stack.enter_context(replaced(each.layer.module, each.forward))
            self._learn(block, targets, learned)
        for each in learned:
            if bool(torch.isfinite(each.row).all() and torch.isfinite(each.weight).all()):
                each.layer.give(each.parts(), self.name)
            else:
                block.say(f"{each.layer.name}: its inputs or its weight are not finite; rounded to nearest")

    def _learn(self, block: Block, targets: list[Tensor], learned: list["_Learned"]) -> None:
        chance = random.Random(0)
        numbers = [each.row for each in learned]
        adam = torch.optim.Adam(numbers, betas=(0.0, 0.99))
        for step, (call, target) in enumerate(turns(block, targets, self.steps)):
            falling = 1.0 - step / self.steps
            for width in reversed(learned[0].widths):
                for each in learned:
                    each.choose(width, chance, self.mixed * (step + 1) / self.steps)
                gradients(error(block, call, target), numbers)
                drop = learned[0].widths[-1] - width
                found = [number.grad for number in numbers if number.grad is not None]
                adam.param_groups[0]["lr"] = falling * adaptive_rate(self.rate, drop, found)
                adam.step()


class _Learned:
    """A linear, the logarithms of what its rows' scales are multiplied by, and the width that it has now."""

    def __init__(self, layer: Layer, sensitive: bool) -> None:
        self.layer, self.sensitive = layer, sensitive
        self.weight = layer.treated
        scale = layer.plan.w.quantize(self.weight)[1]
        self.scale = torch.where(scale > 0.0, scale, torch.ones_like(scale))
        self.row = nn.Parameter(torch.zeros_like(scale))
        self.widths = layer.plan.w.format.widths
        self.width = self.widths[-1]

    def choose(self, width: int, chance: random.Random, mixed: float) -> None:
        """Take ``width``, or with the chance ``mixed`` another one."""
        weights = self.widths if self.sensitive else [1] * len(self.widths)
        self.width = chance.choices(self.widths, weights)[0] if chance.random() < mixed else width

    def codes(self) -> Tensor:
        """Of the largest width."""
        least, most = self.layer.plan.w.format.grid.codes
        return rounded(self.weight / (self.scale * torch.exp(self.row))).clamp(least, most)

    def forward(self, x: Tensor) -> Tensor:
        step, half = 2.0 ** (self.widths[-1] - self.width), 2 ** (self.width - 1)
        codes = rounded(self.codes() / step).clamp(-half, half - 1) * step
        return product(self.layer, x, codes * (self.scale * torch.exp(self.row)))

    def parts(self) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return self.codes().to(self.layer.plan.w.parts[0].dtype), self.scale * torch.exp(self.row)
