"""The packed layout of unsigned codes: planes of bits, then what is there for groups and rows (docs/arithmetic.md, "Packed weights")."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.format import Panels
from lowbit_compiler.runtime.formats.lines import IntegerLines
from lowbit_compiler.runtime.formats.scales import Scale
from lowbit_compiler.runtime.packing import K_BLOCK, PANEL, aligned, padded_k


@dataclass(frozen=True)
class LinePanels(Panels):
    """Codes of ``bits`` bits: for each 64 of K the lines of a plane of 8, 4, 2 or 1 bits follow those of the wider one.

    A line has a word of 32 bits for each of 16 rows, byte j of which holds codes 4 i + j in bits w i to w (i + 1), for a plane of w bits.
    """

    bits: int
    quantizers: bool = True

    planes = True

    @property
    def codes(self) -> tuple[int, int]:  # type: ignore[override]
        """All of that many bits."""
        return 0, (1 << self.bits) - 1

    def _planes(self) -> Iterator[tuple[int, int]]:
        """Yield width and number of bits below of each plane."""
        below = 0
        for width in (8, 4, 2, 1):
            if self.bits & width:
                yield width, below
                below += width

    def nbytes(self, k: int, scale: Scale) -> int:
        """Codes, the parts of each group and row; of lines of integers the sums of a row's int8 codes."""
        kp = padded_k(k, scale.block(k))
        each = {"block": kp // scale.block(k), "row": 1}
        parts = sum(each[part.each] * part.dtype.itemsize for part in scale.parts)
        return PANEL * (kp * self.bits // 8 + parts + (4 if isinstance(scale, IntegerLines) else 0))

    def pack(self, parts: tuple[Tensor, ...], scale: Scale) -> Tensor:
        """Return the parts of [N, K] as int8 [ceil(N / 16), bytes]."""
        q, *stored = parts
        n, k = q.shape
        kp, group = padded_k(k, scale.block(k)), scale.block(k)
        pad = torch.nn.functional.pad
        q = pad(q, (0, kp - k, 0, -n % PANEL))
        counts = [kp // group if part.each == "block" else 1 for part in scale.parts]
        columns = [pad(part, (0, count - part.shape[1], 0, -n % PANEL)) for part, count in zip(stored, counts, strict=True)]
        number = q.shape[0] // PANEL
        if isinstance(scale, IntegerLines):
            columns.append(scale.numbers(q, columns[0], columns[1]).sum(1, keepdim=True, dtype=torch.int32))
        behind = [part.reshape(number, PANEL, -1).transpose(1, 2).contiguous().view(number, -1).view(torch.int8) for part in columns]
        return torch.cat([self._codes(q, number), *behind], 1)

    def _codes(self, q: Tensor, number: int) -> Tensor:
        blocks = q.shape[1] // K_BLOCK
        lines = []
        for width, below in self._planes():
            each = 8 // width
            # [panel, row, block, line, code of a byte, byte of a word]
            codes = (q >> below & ((1 << width) - 1)).reshape(number, PANEL, blocks, 2 * width, each, 4)
            shifted = [codes[..., i, :] << (width * i) for i in range(each)]
            lines.append(torch.stack(shifted).sum(0, dtype=torch.uint8).permute(0, 2, 3, 1, 4).reshape(number, blocks, -1))
        return torch.cat(lines, 2).reshape(number, -1).view(torch.int8)

    def unpack(self, packed: Tensor, n: int, k: int, scale: Scale) -> tuple[Tensor, ...]:
        """Return uint8 [N, Kp], the parts of groups [N, Kp / group] and those of rows [N, 1]."""
        kp = padded_k(k, scale.block(k))
        number, blocks, groups = packed.shape[0], kp // K_BLOCK, kp // scale.block(k)
        size = PANEL * kp * self.bits // 8
        lines = packed[:, :size].contiguous().view(torch.uint8).reshape(number, blocks, 2 * self.bits, PANEL, 4)
        codes = torch.zeros(number, PANEL, blocks, K_BLOCK // 4, 4, dtype=torch.uint8, device=packed.device)
        for width, below in self._planes():
            plane = lines[:, :, 2 * below : 2 * (below + width)].permute(0, 3, 1, 2, 4)
            split = [plane >> (width * i) & ((1 << width) - 1) for i in range(8 // width)]
            codes |= torch.stack(split, 4).reshape(codes.shape) << below
        made = [codes.reshape(number * PANEL, kp)[:n]]
        for part in scale.parts:
            count = groups if part.each == "block" else 1
            end = size + PANEL * count * part.dtype.itemsize
            numbers = aligned(packed[:, size:end]).view(part.dtype).reshape(number, count, PANEL)
            made.append(numbers.transpose(1, 2).reshape(number * PANEL, count)[:n])
            size = end
        return tuple(made)
