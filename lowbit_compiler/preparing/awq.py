"""AWQ (arXiv 2306.00978): channels that are large in the activations get larger weights, so that rounding moves them less."""

import torch
from torch import Tensor

from lowbit_compiler.preparing.block import Block
from lowbit_compiler.preparing.fold import Producer, producers
from lowbit_compiler.preparing.hessian import Inputs, treated
from lowbit_compiler.preparing.method import Method
from lowbit_compiler.runtime.treatments.treatment import at_once

POWERS = 10
"""Powers of the magnitudes that are tried, from 0 (nothing) to below 1 (section 3.2; the authors try 20)."""
ROWS = 256
"""Of each weight, spread evenly: what the powers are compared by."""
SMALLEST = 1e-4


class AWQ(Method):
    """Scales of input channels, folded into what is before, by a search for the power of the channels' magnitude with the least error.

    Changes float weights of the model, which computes what it did, but for roundings of its dtype. Where no exact fold is found, linears
    stay as they are.
    """

    name = "awq"

    def apply(self, block: Block) -> None:
        """Scale the channels of every input that can be."""
        for producer in producers(block, self.name):
            scale = best_scale(producer)
            if scale is not None:
                producer.fold(scale)


def best_scale(producer: Producer) -> Tensor | None:
    """Return the factors [K] of the weights' columns with the least squared error of outputs over the calibration rows; None: all 1.

    Magnitudes are root mean squares, which H has on its diagonal; errors are E H E^T, of H too.
    """
    inputs, hessian = producer.inputs, producer.inputs.hessian
    size = hessian.diagonal().sqrt().clamp(min=SMALLEST)
    best, least = None, _error(inputs, hessian, torch.ones_like(size))
    for step in range(1, POWERS):
        scale = producer.taken(size ** (step / POWERS))
        scale = scale / (scale.max() * scale.min()).sqrt()
        error = _error(inputs, hessian, scale)
        if error < least:
            best, least = scale, error
    return best


def _error(inputs: Inputs, hessian: Tensor, scale: Tensor) -> float:
    moved = treated(hessian / scale / scale.unsqueeze(1), inputs.layers[0].plan.treatment)
    total = 0.0
    for layer in inputs.layers:
        plan, weight = layer.plan, layer.module.weight
        rows = weight[:: max(len(weight) // ROWS, 1)].float() * scale
        wanted = plan.treatment.weight(at_once, rows)
        error = plan.w.dequantize(plan.w.quantize(wanted)) - wanted
        total += float(((error @ moved) * error).sum()) * len(weight) / len(rows)
    return total
