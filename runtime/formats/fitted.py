"""Formats whose scales are fitted to the elements of a group by least squares, not to its largest magnitude; for weights.

A row is first divided by ``outer``, a float32 number of its own that brings its largest magnitude into the range of the stored scales, so that
weights of any size have the same codes.
"""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.format import Format, largest_of
from lowbit_compiler.runtime.formats.grid import Grid, exponent, power
from lowbit_compiler.runtime.formats.scales import EMPTY, Blocks, Scale

CHUNK = 1 << 18
"""Elements that are fitted at a time: what there is beside them stays in a cache."""


class FittedScale(Blocks):
    """What is stored for each block, of a size that recipes choose, below one float32 number for each row, the last part."""

    schema: ClassVar[str] = "int group"
    sizes: ClassVar[tuple[int, ...]] = (32, 64, 128)

    @property
    def name(self) -> str:
        """The size of a group."""
        return f"g{self.size}"

    def outer(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the elements of rows are multiplied by [..., 1], and its inverse, which is stored; ``a`` [..., G]: largest magnitudes.

        Powers of two, 0 where all are empty, which change no bit: the largest comes to between 2^8 and 2^9, so that of float16's 40 binades
        24 are left for smaller groups.
        """
        most = torch.where(torch.isfinite(a), a, torch.zeros_like(a)).amax(-1, keepdim=True)
        reach = exponent(most) - 8.0
        empty = most < EMPTY
        return torch.where(empty, torch.zeros_like(most), power(-reach)), torch.where(empty, torch.zeros_like(most), power(reach))

    def fit(self, a: Tensor, grid: Grid) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Refuse: largest magnitudes are not enough."""
        raise TypeError(f"{type(self).__name__} is fitted to the elements of a group, by Fitted.fitted, not to their largest magnitude")


class Fitted(Format):
    """A format with scales of the kind above; a subclass says how codes and scales of a group are found together."""

    activations = False

    def quantize(self, x: Tensor, scale: Scale, importance: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the parts of ``x`` [N, K], float of any dtype; ``importance`` [K] weighs the errors of columns."""
        assert isinstance(scale, FittedScale)
        rows = max(CHUNK // max(x.shape[1], 1), 1)
        chunks = [self._rows(chunk.float(), scale, importance) for chunk in x.split(rows)]
        return tuple(torch.cat(parts) for parts in zip(*chunks, strict=True)) if len(chunks) > 1 else chunks[0]

    def _rows(self, x: Tensor, scale: FittedScale, importance: Tensor | None) -> tuple[Tensor, ...]:
        k = x.shape[1]
        blocks = spread(x, scale.block(k))
        most = largest_of(blocks)
        special = ~torch.isfinite(most)
        inverse, outer = scale.outer(most.squeeze(-1))
        v = torch.where(special, torch.zeros_like(blocks), blocks) * inverse.unsqueeze(-1)
        q, *stored = self.fitted(v, special, scale, None if importance is None else spread(importance, scale.block(k)))
        return q.flatten(-2)[:, :k].contiguous(), *stored, outer

    @abstractmethod
    def fitted(self, v: Tensor, special: Tensor, scale: FittedScale, importance: Tensor | None) -> tuple[Tensor, ...]:
        """Return codes [N, G, block] of ``v`` float32 [N, G, block], and the parts [N, G] between them and outer.

        ``special`` [N, G, 1]: groups that are NaN throughout, zeros in ``v``. ``importance`` [G, block] weighs squared errors; None: 1.
        """


def spread(v: Tensor, block: int) -> Tensor:
    """Return ``v`` [..., K] in blocks [..., G, block], the last one filled up with its last element."""
    short = -v.shape[-1] % block
    if short:
        v = torch.cat([v, v[..., -1:].expand(*v.shape[:-1], short)], -1)
    return v.reshape(*v.shape[:-1], v.shape[-1] // block, block)
