"""Where the scales of a quantized tensor live, and how they are stored.

Each cuts rows of K elements into G blocks along K. ``fit`` chooses the scales for the largest magnitudes of the blocks, ``unit`` returns
what the grid's number 1 stands for in a block. A block below the smallest that counts becomes zeros (unit 0), one with NaN or Inf is NaN throughout.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.grid import Floats, Grid, exponent, power
from lowbit_compiler.runtime.formats.part import Part

E8M0_BIAS = 127.0
EMPTY = 2.0**-120  # below this 127/a overflows float32; the block counts as zero


class Scale(ABC):
    """Rows in blocks, and the tensors that their scales are stored as."""

    suffix: ClassVar[str] = ""
    """What it adds to the names of a format's ops; "" for plain float32 scales, "_mx" in ``quantize_fp4_mx``."""
    schema: ClassVar[str] = ""
    """The arguments that it adds to their schemas."""
    row_local: ClassVar[bool] = True
    """Whether the scales of a row depend on that row alone."""
    integers: ClassVar[bool] = False
    """Whether the numbers of a row are int8 integers times one scale, so that products with int8 activations are exact sums."""
    masks: ClassVar[bool] = False
    """Whether, in training, elements that it lets saturate get no gradient."""
    learns: ClassVar[bool] = False
    """Whether, in training, a parameter of the model may take its place (``at``, runtime/training/steps.py)."""
    sizes: ClassVar[tuple[int, ...]] = ()
    """The sizes that a block may have; empty: all of K."""
    parts: ClassVar[tuple[Part, ...]]
    """The tensors."""

    @classmethod
    def sized(cls, group: int) -> "Scale":
        """Return the scale with blocks of ``group`` where it has a choice."""
        return cls(*([group] if group in cls.sizes else cls.sizes[:1]))

    @property
    @abstractmethod
    def name(self) -> str:
        """For people."""

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The values of ``schema``."""
        return ()

    @property
    def processes(self) -> tuple[str, ...]:
        """The groups of processes, by name, that have the scales together; empty: they are this one's."""
        return ()

    def over(self, groups: tuple[str, ...]) -> "Scale | None":
        """Return the scale of whole rows, of which the processes of ``groups`` have a part each; None where there is no such scale."""
        return None

    def block(self, k: int) -> int:
        """Return the elements of a block in rows of ``k``."""
        return k

    def count(self, k: int) -> int:
        """Return the number of blocks in rows of ``k``."""
        return -(-k // self.block(k)) if k else 1

    def blocks(self, x: Tensor) -> Tensor:
        """Return ``x`` [..., K] as [..., G, block], the last block padded with zeros."""
        block = self.block(x.shape[-1])
        if x.shape[-1] % block:
            return torch.ops.lowbit.padded_blocks(x, block)  # type: ignore[no-any-return]
        return x.reshape(*x.shape[:-1], self.count(x.shape[-1]), block)

    def rows(self, blocks: Tensor, k: int) -> Tensor:
        """Invert :meth:`blocks`: [..., K]."""
        if k % self.block(k):
            return torch.ops.lowbit.joined_blocks(blocks, k)  # type: ignore[no-any-return]
        return blocks.flatten(-2)

    def spread(self, unit: Tensor, k: int) -> Tensor:
        """Return what is there for each block [..., G] for each of the ``k`` elements of a row [..., K]."""
        return unit.repeat_interleave(self.block(k), -1)[..., :k]

    def reach(self, blocks: Tensor) -> Tensor:
        """Return what of each block [..., G, block] float32 the grid has to reach [..., G]: its largest magnitude."""
        return largest(blocks)

    @abstractmethod
    def fit(self, a: Tensor, grid: Grid) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return what the elements of the blocks are multiplied by [..., G], and the stored scales.

        ``a`` float32 [..., G] is what :meth:`reach` returns.
        """

    @abstractmethod
    def unit(self, *stored: Tensor) -> Tensor:
        """Return float32 [..., G] of the stored scales."""

    def start(self, *stored: Tensor) -> Tensor:
        """Return what is added to units times numbers of the grid: nothing, but on lines [..., G]."""
        return torch.zeros_like(self.unit(*stored))


def largest(x: Tensor) -> Tensor:
    """Return the largest magnitude of each row of ``x`` [..., K] as [...]; 0 of a row without elements."""
    return x.abs().amax(-1) if x.shape[-1] else x.new_zeros(x.shape[:-1])


def inverse_and_unit(a: Tensor, largest: float) -> tuple[Tensor, Tensor]:
    """Return ``largest / a`` and ``a / largest`` in float32; 0 for empty blocks, 0 and NaN where ``a`` is not finite."""
    empty, special = a < EMPTY, ~torch.isfinite(a)
    limit = torch.full_like(a, largest)  # a tensor: with a Python number torch multiplies by a rounded reciprocal
    inverse = torch.where(empty | special, torch.zeros_like(a), limit / a)
    return inverse, torch.where(special, torch.full_like(a, torch.nan), torch.where(empty, torch.zeros_like(a), a / limit))


class Plain(Scale):
    """A float32 scale as it is, for a row or for each of its blocks."""

    parts: ClassVar[tuple[Part, ...]] = (Part("scale", torch.float32),)

    def fit(self, a: Tensor, grid: Grid) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Let the largest magnitude be the largest number of the grid."""
        inverse, unit = inverse_and_unit(a, grid.largest)
        return inverse, (unit,)

    def unit(self, *stored: Tensor) -> Tensor:
        """Return the scale."""
        return stored[0]


@dataclass(frozen=True)
class Row(Plain):
    """One scale for a row (LLM.int8(), arXiv 2208.07339, section 2): [..., 1]."""

    @property
    def name(self) -> str:
        """Nothing: it is the usual one."""
        return ""

    def spread(self, unit: Tensor, k: int) -> Tensor:
        """Return the scale as it is: it broadcasts."""
        return unit

    def over(self, groups: tuple[str, ...]) -> Scale | None:
        """Reduce over the processes what a row has to reach."""
        from lowbit_compiler.runtime.formats.shared import SharedRow  # made of this one

        return SharedRow(groups)


@dataclass(frozen=True)
class Blocks(Scale):
    """Scales for blocks of ``size`` elements along K: [..., G]."""

    size: int

    schema: ClassVar[str] = "int block"

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The size."""
        return (self.size,)

    def block(self, k: int) -> int:
        """Return the size."""
        return self.size


@dataclass(frozen=True)
class Groups(Blocks, Plain):
    """One float32 scale for each block, of a size that recipes choose."""

    schema: ClassVar[str] = "int group"
    sizes: ClassVar[tuple[int, ...]] = (32, 64, 128)

    @property
    def name(self) -> str:
        """The size of a group."""
        return f"g{self.size}"


@dataclass(frozen=True)
class PowersOfTwo(Blocks):
    """A power of two for each block (e8m0, OCP Microscaling 1.0, section 5.4): uint8 [..., G] of exponent + 127; 255 is NaN.

    The exponent is that of the block's largest magnitude less that of the grid's: of e2m1 what lies from 6 to 8 units becomes 6.
    """

    size: int = 32

    suffix: ClassVar[str] = "_mx"
    sizes: ClassVar[tuple[int, ...]] = (32,)

    parts: ClassVar[tuple[Part, ...]] = (Part("scale", torch.uint8),)

    @property
    def name(self) -> str:
        """As its numbers are called."""
        return f"e8m0 b{self.size}"

    def fit(self, a: Tensor, grid: Grid) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Take the largest power of two by which the largest magnitude reaches the grid's largest binade."""
        special = ~torch.isfinite(a)
        reach = exponent(torch.where(special, torch.ones_like(a), a)) - float(math.frexp(grid.largest)[1] - 1)
        reach = torch.where(a == 0.0, torch.full_like(a, -127.0), reach.clamp(-127.0, 127.0))
        inverse = torch.where(special | (a == 0.0), torch.zeros_like(a), power(-reach))
        return inverse, (torch.where(special, torch.full_like(a, 255.0), reach + E8M0_BIAS).to(torch.uint8),)

    def unit(self, *stored: Tensor) -> Tensor:
        """Return the powers of two."""
        code = stored[0].float()
        return torch.where(code == 255.0, torch.full_like(code, torch.nan), power(code - E8M0_BIAS))


E4M3 = Floats(4, 3, top=8)
E4M3_MOST = 448.0
"""The largest number of e4m3 as hardware has it: the next code is its NaN."""


@dataclass(frozen=True)
class Nested(Blocks):
    """An e4m3 scale for each block under one float32 scale for the tensor (NVFP4): int8 [..., G] of e4m3 bits, and [].

    The outer scale is the largest finite magnitude of the tensor over 448 times the grid's largest, so the scales of blocks fill e4m3. Of
    activations it depends on every row of a call, as in the libraries that have it.
    """

    size: int = 16

    suffix: ClassVar[str] = "_nv"
    sizes: ClassVar[tuple[int, ...]] = (16,)
    row_local: ClassVar[bool] = False

    parts: ClassVar[tuple[Part, ...]] = (Part("scale", torch.int8), Part("outer", torch.float32, "tensor"))

    @property
    def name(self) -> str:
        """As its numbers are called."""
        return f"e4m3 b{self.size}"

    def fit(self, a: Tensor, grid: Grid) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Let the largest magnitude of each block be about the largest number of the grid."""
        special = ~torch.isfinite(a)
        finite = torch.where(special | (a < EMPTY), torch.zeros_like(a), a)
        most = torch.nn.functional.pad(finite.flatten(), (0, 1)).amax(-1)  # of a tensor without elements: 0
        outer = torch.where(most < EMPTY, torch.ones_like(most), most / torch.full_like(most, E4M3_MOST * grid.largest))
        inner = E4M3.encode((finite / (outer * grid.largest)).clamp(max=E4M3_MOST))
        unit = E4M3.decode(inner) * outer
        inverse = torch.where(special | (unit == 0.0), torch.zeros_like(a), 1.0 / unit)
        return inverse, (torch.where(special, torch.full_like(inner, 127), inner), outer)

    def unit(self, *stored: Tensor) -> Tensor:
        """Return the product of both scales."""
        inner, outer = stored
        value = E4M3.decode(inner)
        return torch.where(inner == 127, torch.full_like(value, torch.nan), value) * outer
