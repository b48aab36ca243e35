"""Three numbers, -1, 0 and 1, with a scale for each row or group: for the weights of models that were trained so.

What is ternary already is found again exactly, whatever its scale: a matrix may have several, one for each shard of the devices that it was
trained on (Spectra, arXiv 2407.12327, appendix A). Any other weight loses most of what it says.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.format import EPS, Format, largest_of
from lowbit_compiler.runtime.formats.grid import Integers
from lowbit_compiler.runtime.formats.scales import EMPTY, Groups, Row, Scale
from lowbit_compiler.runtime.rounding import Rounding


@dataclass(frozen=True)
class Shards(Groups):
    """Groups beside rows: of a matrix that was sharded along K each has scales of one shard."""

    suffix = "_grouped"


@dataclass(frozen=True)
class Ternary(Format):
    """q = sign(w) where |w| > s / 2, else 0; s is the one magnitude that there is, else the mean of those above half the mean magnitude."""

    name = "ternary"
    scales = (Row, Shards)
    words = ("ternary", "ternary-groups")
    activations = False
    onnx = ("INT4", 21)
    grid = Integers(-1, 1)

    def quantize(self, x: Tensor, scale: Scale, importance: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return codes and scales of ``x`` [N, K]; all columns count alike."""
        blocks = scale.blocks(x.float())
        codes, unit = _fitted(blocks)
        return scale.rows(codes.to(torch.int8), x.shape[-1]).contiguous(), unit.squeeze(-1)

    def step(self, x: Tensor, scale: Scale, rounding: Rounding) -> Tensor:
        """Return the largest error of an element in each block of ``x`` [N, K]: float64 [N, G]."""
        blocks = scale.blocks(x.float())
        a, unit = (each.squeeze(-1).double() for each in (largest_of(blocks), _fitted(blocks)[1]))
        return torch.maximum(rounding.share * unit, a - unit).clamp(min=0.0) + 4 * EPS * a


def _fitted(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes [..., block] in float32 and the scale of each block [..., 1], NaN where an element is not finite."""
    size, a = blocks.abs(), largest_of(blocks)
    special = ~torch.isfinite(a)
    size = torch.where(special | (a < EMPTY), torch.zeros_like(size), size)
    ternary = ((size == 0.0) | (size == a)).all(-1, keepdim=True)
    count = size.shape[-1] or 1
    large = (size > size.sum(-1, keepdim=True) / (2 * count)).float()  # threshold: half the mean magnitude (section A)
    mean = (size * large).sum(-1, keepdim=True) / large.sum(-1, keepdim=True).clamp(min=1.0)
    unit = torch.where(a < EMPTY, torch.zeros_like(a), torch.where(ternary, a, mean))
    codes = torch.where(size > unit / 2, torch.sign(blocks), torch.zeros_like(blocks))
    return codes, torch.where(special, torch.full_like(unit, torch.nan), unit)


FORMATS = (Ternary,)
