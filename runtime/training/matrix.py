"""A matrix in low precision, as a product takes it and as it is saved for the backward pass."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats import Operand
from lowbit_compiler.runtime.formats.grid import Integers
from lowbit_compiler.runtime.products import MAX_K
from lowbit_compiler.runtime.training import steps
from lowbit_compiler.runtime.training.noise import Stream
from lowbit_compiler.runtime.training.scales import Learned
from lowbit_compiler.torch_internals import fused

BYTE = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)


@dataclass(frozen=True)
class Matrix:
    """Rows of ``operand``: its ``parts``, codes [R, K] first; ``inside`` [R, K] is False where an element gets no gradient (None: nowhere).

    ``changes`` int8 [R, K] is what a step size that is learned has its gradient of (runtime/training/steps.py).
    """

    operand: Operand
    parts: tuple[Tensor, ...]
    inside: Tensor | None = None
    changes: Tensor | None = None

    @classmethod
    def of(cls, operand: Operand, x: Tensor, stream: Stream | None = None) -> "Matrix":
        """Quantize ``x`` float32 [R, K]; a random rounding takes the numbers of ``stream``."""
        if operand.rounding.random:
            assert stream is not None
            parts = operand.draw(x, stream.uniform(*x.shape))
        else:
            parts = operand.quantize(x)
        if not operand.scale.masks:
            return cls(operand, parts)
        unit = operand.scale.spread(operand.scale.unit(*parts[1:]), x.shape[1])
        inside = x.abs() <= unit * operand.format.grid.largest
        return cls(operand, parts, inside, steps.changes(parts[0], x, unit, inside) if isinstance(operand.scale, Learned) else None)

    @property
    def codes(self) -> Tensor:
        """[R, K]."""
        return self.parts[0]

    @property
    def unit(self) -> Tensor:
        """What the grid's number 1 stands for, float32 [R, blocks] or [1, 1]."""
        return self.operand.scale.unit(*self.parts[1:])

    @property
    def value(self) -> Tensor:
        """The numbers, float32 [R, K]."""
        return self.operand.dequantize(self.parts)

    def save(self) -> list[Tensor]:
        """Return the tensors that are kept until the backward pass: codes of 4 bits two in a byte, the mask eight in one or in the changes."""
        first, *stored = self.parts
        kept = [_paired(first) if self.operand.format.grid.bits <= 4 else first, *stored]
        if self.inside is None:
            return kept
        return [*kept, _packed(self.inside) if self.changes is None else self.changes]

    @classmethod
    def saved(cls, operand: Operand, kept: Sequence[Tensor], k: int) -> "Matrix":
        """Invert :meth:`save` for rows of ``k``."""
        first, *stored = kept
        beside = stored.pop() if operand.scale.masks else None
        parts = (_unpaired(first, k) if operand.format.grid.bits <= 4 else first, *stored)
        if beside is None:
            return cls(operand, parts)
        if isinstance(operand.scale, Learned):
            return cls(operand, parts, beside.ne(steps.CLIPPED), beside)
        return cls(operand, parts, _unpacked(beside, k))


def shapes(operand: Operand, like: Tensor, rows: Any, k: int) -> list[Tensor]:
    """Return empty tensors of the shapes and dtypes of :meth:`Matrix.save` for a matrix [rows, k]."""
    first, *stored = operand.parts
    paired = operand.format.grid.bits <= 4
    made = [like.new_empty((rows, -(-k // 2) if paired else k), dtype=torch.uint8 if paired else first.dtype)]
    made += [like.new_empty(part.shape((rows, k), operand.scale.count(k)), dtype=part.dtype) for part in stored]
    if isinstance(operand.scale, Learned):
        return [*made, like.new_empty((rows, k), dtype=torch.int8)]
    return made + [like.new_empty((rows, -(-k // 8)), dtype=torch.uint8)] * operand.scale.masks


def multiply(a: Matrix, b: Matrix) -> Tensor:
    """Return ``a b^T`` float32 [Ra, Rb]: exact sums where both have one scale a row, float32 ones of the numbers elsewhere."""
    if integers(a.operand) and integers(b.operand):
        return integer_product(a.codes, b.codes.t()) * a.unit * b.unit.t()
    return a.value @ b.value.t()


def integers(operand: Operand) -> bool:
    """Return whether a row of the operand is integers times one scale."""
    return isinstance(operand.format.grid, Integers) and operand.scale.count(2**30) == 1


def integer_product(a: Tensor, b: Tensor) -> Tensor:
    """Return the product of codes ``a`` [R, K] and ``b`` [K, C], summed exactly and rounded to float32."""
    # of sums of one product, torch's has wrong results where both strides of b are 1
    if a.dtype is b.dtype is torch.int8 and a.device.type == "cpu" and 1 < a.shape[1] <= MAX_K and _exact_int8():
        return fused.int_mm(a, b).float()  # type: ignore[no-any-return]
    return (a.double() @ b.double()).float()


@functools.cache
def _exact_int8() -> bool:
    """Return whether torch's int8 product adds without saturation here: without VNNI, instructions that do not are in use."""
    extremes = torch.tensor([[-127], [127]], dtype=torch.int8).expand(2, 256).contiguous()
    return torch.equal(fused.int_mm(extremes, extremes.t()), 256 * 127 * 127 * torch.tensor([[1, -1], [-1, 1]], dtype=torch.int32))


def _paired(codes: Tensor) -> Tensor:
    """Two codes of 4 bits in a byte, the even one in the low bits: uint8 [R, ceil(K / 2)]."""
    even = torch.nn.functional.pad(codes, (0, codes.shape[1] % 2)).to(torch.uint8) & 15
    return even[:, 0::2] | (even[:, 1::2] << 4)


def _unpaired(pairs: Tensor, k: int) -> Tensor:
    codes = torch.stack([pairs & 15, pairs >> 4], 2).flatten(1)[:, :k]
    return (codes ^ 8).to(torch.int8) - 8


def _packed(inside: Tensor) -> Tensor:
    """Eight elements in a byte, the first in the lowest bit: uint8 [R, ceil(K / 8)]."""
    bits = torch.nn.functional.pad(inside, (0, -inside.shape[1] % 8)).to(torch.uint8)
    return (bits.view(bits.shape[0], -1, 8) * BYTE.to(bits.device)).sum(2, dtype=torch.uint8)


def _unpacked(packed: Tensor, k: int) -> Tensor:
    return (packed.unsqueeze(2) & BYTE.to(packed.device)).flatten(1)[:, :k] != 0
