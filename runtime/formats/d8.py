"""int8 weights that products can read in 8, 6 or 4 bits: one stored tensor, and how many bits count is said beside it, at run time."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.format import Panels
from lowbit_compiler.runtime.formats.s8 import S8
from lowbit_compiler.runtime.formats.scales import Row, Scale

BITS = 8


def narrowed(q: Tensor, width: Tensor | int) -> Tensor:
    """Return int8 codes ``q`` rounded to ``width`` bits, as numbers of the same scale: multiples of 2^(8 - width).

    Ties go to the even code, which shifts no mean, and what would be above the largest code of ``width`` bits becomes that.
    """
    step = 2.0 ** (BITS - width)
    return (torch.round(q.float() / step).clamp(max=128.0 / step - 1.0) * step).to(torch.int8)


class _Panels(Panels):
    codes = (-127, 127)
    behind = 1
    quantizers = False

    def nbytes(self, k: int, scale: Scale) -> int:
        """As of ``s8``."""
        return S8.panels.nbytes(k, scale)

    def pack(self, parts: tuple[Tensor, ...], scale: Scale) -> Tensor:
        """Panels of ``s8``, and a row whose first byte is the width in force: 8."""
        packed: Tensor = torch.ops.lowbit.pack_s8(*parts)
        whole = torch.nn.functional.pad(packed, (0, 0, 0, self.behind))
        self.switch(whole, BITS)
        return whole

    def unpack(self, packed: Tensor, n: int, k: int, scale: Scale) -> tuple[Tensor, ...]:
        """Return int8 [N, Kp] in the width in force, and float32 [N, 1]."""
        q, scales = S8.panels.unpack(packed[: -self.behind], n, k, scale)
        return narrowed(q, packed[-1, 0].float()), scales

    def width(self, packed: Tensor) -> int:
        """Return the width in force."""
        return int(packed[-1, 0])

    def switch(self, packed: Tensor, width: int) -> None:
        """Write another width."""
        packed[-1, 0] = width


@dataclass(frozen=True)
class D8(S8):
    """The codes of ``s8``, rounded once more where fewer bits are wanted (Double Rounding, arXiv 2502.01199, equations 3 and 4).

    The codes of l bits are clip(rne(q / 2^(8 - l)), -2^(l-1), 2^(l-1) - 1), their scale 2^(8 - l) times the row's.
    """

    name = "d8"
    scales = (Row,)
    words = ("int8-switchable",)
    activations = False
    panels: ClassVar[Panels] = _Panels()
    widths = (4, 6, BITS)

    def quantize(self, x: Tensor, scale: Scale, importance: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the codes and scales of ``s8``."""
        q, scales = torch.ops.lowbit.quantize_s8(x)
        return q, scales

    def narrow(self, parts: tuple[Tensor, ...], width: int) -> tuple[Tensor, ...]:
        """Return ``parts`` in ``width`` bits."""
        return narrowed(parts[0], width), *parts[1:]


FORMATS = (D8,)
