"""OutlierTune (arXiv 2406.18832): static scales of activation channels, and shifts that make them symmetric, taken out before the product."""

import torch

from lowbit_compiler.errors import OptionError
from lowbit_compiler.preparing.block import Block
from lowbit_compiler.preparing.fold import producers
from lowbit_compiler.preparing.method import Method
from lowbit_compiler.recipes import Recipe

SMALLEST = 1e-5
"""Of the largest range: a channel below that is taken for one that never changes."""


class OutlierTune(Method):
    """Every channel of an activation gets the same range, [-1, 1] times a constant; weights take the scales before they are quantized.

    The shift needs a bias before and behind; without, only scales are folded. Changes float weights and biases of the model, which
    computes what it did, but for roundings of its dtype. Where no exact fold is found, linears stay as they are.
    """

    name = "outlier_tune"

    def check(self, recipe: Recipe) -> None:
        """Raise OptionError where activations are not quantized."""
        if recipe.plan.x is None:
            raise OptionError(f"{self.name} is for quantized activations, and recipe {recipe.name!r} leaves them in float")

    def apply(self, block: Block) -> None:
        """Fold scales and shifts of every input that can be."""
        for producer in producers(block, self.name):
            inputs = producer.inputs
            shift = (inputs.high + inputs.low) / 2 if producer.shifts else None
            size = (inputs.high - inputs.low) / 2 if shift is not None else torch.maximum(inputs.high, -inputs.low)
            scale = torch.where(size > SMALLEST * size.max(), size, torch.ones_like(size))
            producer.fold(scale / scale.log().mean().exp(), shift)
