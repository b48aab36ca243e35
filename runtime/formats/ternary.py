"""Three numbers, -1, 0 and 1, with a scale for each row or group: for the weights of models that were trained so.

What is ternary already is found again exactly, whatever its scale: a matrix may have several, one for each shard of the devices that it was
trained on (Spectra, arXiv 2407.12327, appendix A). Any other weight loses most of what it says.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.format import EPS, Format, Panels, largest_of
from lowbit_compiler.runtime.formats.grid import Integers
from lowbit_compiler.runtime.formats.scales import EMPTY, Groups, Row, Scale
from lowbit_compiler.runtime.packing import PANEL, aligned, padded_k
from lowbit_compiler.runtime.rounding import Rounding


@dataclass(frozen=True)
class Shards(Groups):
    """Groups beside rows: of a matrix that was sharded along K each has scales of one shard."""

    suffix = "_grouped"


class _Panels(Panels):
    codes = (-1, 1)
    planes = True
    quantizers = False

    def nbytes(self, k: int, scale: Scale) -> int:
        """Four codes a byte, scales; of whole rows the sums of their codes."""
        kp, _, groups = _sizes(k, scale)
        return PANEL * (kp // 4 + 4 * groups + (0 if scale.sizes else 4))

    def pack(self, parts: tuple[Tensor, ...], scale: Scale) -> Tensor:
        """Four bytes of each of the 16 rows side by side; bits 2 i and 2 i + 1 of byte j hold the code at 4 i + j of 16, plus 1."""
        q, scales = parts
        n, k = q.shape
        kp, number, groups = _sizes(k, scale, n)
        pad = torch.nn.functional.pad
        q = pad(q, (0, kp - k, 0, -n % PANEL))
        codes = (q + 1).to(torch.uint8).reshape(number, PANEL, kp // 16, 4, 4)
        lines = torch.stack([codes[..., i, :] << 2 * i for i in range(4)]).sum(0, dtype=torch.uint8).transpose(1, 2)
        scales = scales.reshape(n, -1)
        scales = pad(scales, (0, groups - scales.shape[1], 0, -n % PANEL)).reshape(number, PANEL, groups).transpose(1, 2)
        sums = [] if scale.sizes else [q.sum(1, dtype=torch.int32)]
        made = [part.contiguous().view(number, -1).view(torch.int8) for part in (lines, *sums, scales)]
        return torch.cat(made, 1)

    def unpack(self, packed: Tensor, n: int, k: int, scale: Scale) -> tuple[Tensor, ...]:
        """Return int8 [N, Kp] and float32 [N, Kp / group], or [N, 1]."""
        kp, number, groups = _sizes(k, scale, n)
        lines = packed[:, : PANEL * kp // 4].contiguous().view(torch.uint8).reshape(number, kp // 16, PANEL, 4)
        codes = torch.stack([lines >> 2 * i & 3 for i in range(4)], 3).transpose(1, 2).reshape(number * PANEL, kp)
        scales = aligned(packed[:, -PANEL * 4 * groups :]).view(torch.float32).reshape(number, groups, PANEL)
        return codes[:n].to(torch.int8) - 1, scales.transpose(1, 2).reshape(number * PANEL, groups)[:n]


def _sizes(k: int, scale: Scale, n: int = 0) -> tuple[int, int, int]:
    """Return K as stored, the number of panels and that of scales in a row."""
    kp = padded_k(k, scale.block(k)) if scale.sizes else padded_k(k)
    return kp, -(-n // PANEL), kp // scale.block(k) if scale.sizes else 1


@dataclass(frozen=True)
class Ternary(Format):
    """q = sign(w) where |w| > s / 2, else 0; s is the one magnitude that there is, else the mean of those above half the mean magnitude."""

    name = "ternary"
    scales = (Row, Shards)
    words = ("ternary", "ternary-groups")
    activations = False
    onnx = ("INT4", 21)
    grid = Integers(-1, 1)
    panels = _Panels()

    def quantize(self, x: Tensor, scale: Scale, importance: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return codes and scales of ``x`` [N, K]; all columns count alike."""
        blocks = scale.blocks(x.float())
        codes, unit = _fitted(blocks)
        return scale.rows(codes.to(torch.int8), x.shape[-1]).contiguous(), unit.squeeze(-1)

    def start(self, scale: Scale, stored: tuple[Tensor, ...]) -> Tensor:
        """Return what -1 stands for: kernels for a few rows count from it."""
        return -scale.unit(*stored)

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
