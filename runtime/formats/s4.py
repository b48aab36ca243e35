"""Signed 4-bit integers, -7 to 7, with a scale for each group along K; for weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.format import Format, Panels
from lowbit_compiler.runtime.formats.grid import Integers
from lowbit_compiler.runtime.formats.scales import Groups, Scale
from lowbit_compiler.runtime.packing import PANEL, aligned, padded_k


class _Panels(Panels):
    codes = (-8, 7)

    def nbytes(self, k: int, scale: Scale) -> int:
        """Two codes a byte, scales."""
        kp = padded_k(k, scale.block(k))
        return PANEL * kp // 2 + kp // scale.block(k) * PANEL * 4

    def pack(self, parts: tuple[Tensor, ...], scale: Scale) -> Tensor:
        """Four bytes of each of the 16 rows side by side; a byte holds the codes k and k + 4 of 8, plus 8."""
        q, scales = parts
        n, k = q.shape
        kp = padded_k(k, group := scale.block(k))
        q = torch.nn.functional.pad(q, (0, kp - k, 0, -n % PANEL))
        scales = torch.nn.functional.pad(scales, (0, kp // group - scales.shape[1], 0, -n % PANEL))
        number = q.shape[0] // PANEL
        codes = (q + 8).to(torch.uint8).reshape(number, PANEL, kp // 8, 2, 4).permute(0, 2, 3, 1, 4)
        nibbles = (codes[:, :, 0] | (codes[:, :, 1] << 4)).reshape(number, PANEL * kp // 2)
        scales = scales.reshape(number, PANEL, kp // group).transpose(1, 2).reshape(number, kp // group * PANEL)
        return torch.cat([nibbles.view(torch.int8), scales.contiguous().view(torch.int8)], 1)

    def unpack(self, packed: Tensor, n: int, k: int, scale: Scale) -> tuple[Tensor, ...]:
        """Return int8 [N, Kp] and float32 [N, Kp / group]."""
        kp = padded_k(k, group := scale.block(k))
        number = packed.shape[0]
        nibbles = packed[:, : PANEL * kp // 2].contiguous().view(torch.uint8).reshape(number, kp // 8, 1, PANEL, 4)
        codes = torch.cat([nibbles & 15, nibbles >> 4], 2).permute(0, 3, 1, 2, 4).reshape(number * PANEL, kp)
        scales = aligned(packed[:, PANEL * kp // 2 :]).view(torch.float32)
        scales = scales.reshape(number, kp // group, PANEL).transpose(1, 2).reshape(number * PANEL, kp // group)
        return codes[:n].to(torch.int8) - 8, scales[:n]


@dataclass(frozen=True)
class S4(Format):
    """q = rne(w (7 / a)), s = a / 7 for the largest magnitude a of a group."""

    name = "s4"
    scales = (Groups,)
    words = ("int4-symmetric",)
    activations = False
    onnx = ("INT4", 21)
    grid = Integers(-7, 7)
    panels = _Panels()


FORMATS = (S4,)
