"""Signed 8-bit integers, -127 to 127: one scale for a row of activations or an output row of a weight."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.format import Format, Panels
from lowbit_compiler.runtime.formats.grid import Integers
from lowbit_compiler.runtime.formats.scales import Row, Scale
from lowbit_compiler.runtime.packing import PANEL, aligned, padded_k


class _Panels(Panels):
    codes = (-127, 127)

    def nbytes(self, k: int, scale: Scale) -> int:
        """Codes, the sum of each row's codes, scales."""
        return PANEL * padded_k(k) + 2 * PANEL * 4

    def pack(self, parts: tuple[Tensor, ...], scale: Scale) -> Tensor:
        """Four codes of each of the 16 rows side by side."""
        q, scales = parts
        n, k = q.shape
        q = torch.nn.functional.pad(q, (0, padded_k(k) - k, 0, -n % PANEL))
        scales = torch.nn.functional.pad(scales.reshape(-1), (0, -n % PANEL))
        number = q.shape[0] // PANEL
        panels = q.reshape(number, PANEL, q.shape[1] // 4, 4).transpose(1, 2).reshape(number, PANEL * q.shape[1])
        sums = q.sum(1, dtype=torch.int32).reshape(number, PANEL)
        return torch.cat([panels, sums.view(torch.int8), scales.reshape(number, PANEL).view(torch.int8)], 1)

    def unpack(self, packed: Tensor, n: int, k: int, scale: Scale) -> tuple[Tensor, ...]:
        """Return int8 [N, Kp] and float32 [N, 1]."""
        kp, number = padded_k(k), packed.shape[0]
        q = packed[:, : PANEL * kp].reshape(number, kp // 4, PANEL, 4).transpose(1, 2).reshape(number * PANEL, kp)
        scales = aligned(packed[:, -PANEL * 4 :]).view(torch.float32).reshape(-1, 1)
        return q[:n], scales[:n]


@dataclass(frozen=True)
class S8(Format):
    """q = rne(x (127 / a)), s = a / 127 for the largest magnitude a of a row (LLM.int8(), arXiv 2208.07339, section 2)."""

    name = "s8"
    scales = (Row,)
    words = ("int8",)
    onnx = ("INT8", 21)
    grid = Integers(-127, 127)
    panels: ClassVar[Panels] = _Panels()


FORMATS = (S8,)
