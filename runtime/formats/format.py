"""A number format: how a tensor of rows is written in few bits, and read again."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.grid import Grid
from lowbit_compiler.runtime.formats.part import Part
from lowbit_compiler.runtime.formats.scales import Scale, largest
from lowbit_compiler.runtime.rounding import Rounding

EPS = 2.0**-24  # unit roundoff of float32
FLUSHED = 2.0**-126  # bfloat16 dot products of the hardware take smaller numbers as zero


class Format(ABC):
    """Codes on a grid and scales for blocks of them; a subclass is a format, in a file of its own (docs/architecture.md).

    From it come the ops ``lowbit::quantize_<name>``, ``dequantize_<name>`` and, with a layout for kernels, ``pack_<name>``. All functions
    here are plain torch: the reference, and what the compiler of the remainder makes its code of where there is no kernel.
    """

    name: ClassVar[str]
    """In the names of ops."""
    scales: ClassVar[tuple[type[Scale], ...]]
    """What scales it may have; ops of all but plain ones say so in their names."""
    schema: ClassVar[str] = ""
    """The arguments of its ops that say which one of a family of formats it is."""
    words: ClassVar[tuple[str, ...]]
    """How recipes spell it; of a family of formats, some of them."""
    activations: ClassVar[bool] = True
    """Whether it is defined for activations, not for weights alone."""
    onnx: ClassVar[tuple[str, int]] = ("", 0)
    """The type of ONNX with these codes, and the opset from which DequantizeLinear takes it."""
    panels: ClassVar["Panels | None"] = None
    """How kernels want weights in memory; None: no kernel knows the format, and its products are emulated."""
    widths: ClassVar[tuple[int, ...]] = ()
    """The bits of a code among which products can be switched at run time; empty: a code has the bits of the grid."""

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """The numbers of the codes."""

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The values of ``schema``."""
        return ()

    @classmethod
    def tensor(cls) -> str:
        """Return what its ops call the float tensor: "w" where it is defined for weights alone."""
        return "x" if cls.activations else "w"

    @classmethod
    def spelled(cls, word: str, group: int) -> "tuple[Format, Scale] | None":
        """Return the format that a recipe calls ``word``, with its scale, for groups of ``group``; None for another format's word.

        Words stand for scales in their order; a family of formats reads its own.
        """
        scales = dict(zip(cls.words, cls.scales, strict=True))
        return (cls(), scales[word].sized(group)) if word in scales else None

    def __str__(self) -> str:
        return self.name

    def parts(self, scale: Scale) -> tuple[Part, ...]:
        """Return the tensors of a quantized operand, codes first."""
        return Part("q", self.grid.dtype, "element"), *scale.parts

    def quantize(self, x: Tensor, scale: Scale, importance: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the parts of ``x`` [..., K], float of any dtype; ``importance`` [K] weighs the errors of columns where scales are fitted to them."""
        return self.encode(x, scale)

    def encode(self, x: Tensor, scale: Scale, noise: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the parts of ``x`` [..., K] with codes next to its numbers: the nearest, or with ``noise`` [..., K] one that it draws."""
        blocks = scale.blocks(x.float())
        a = scale.reach(blocks)
        inverse, stored = scale.fit(a, self.grid)
        v = torch.where(torch.isfinite(a.unsqueeze(-1)), blocks, torch.zeros_like(blocks)) * inverse.unsqueeze(-1)
        codes = self.grid.encode(v, None if noise is None else scale.blocks(noise))
        return scale.rows(codes, x.shape[-1]).contiguous(), *stored

    def dequantize(self, parts: tuple[Tensor, ...], scale: Scale, dtype: torch.dtype) -> Tensor:
        """Return [..., K] in ``dtype``."""
        codes, *stored = parts
        blocks = scale.blocks(self.grid.decode(codes)) * scale.unit(*stored).unsqueeze(-1)
        return scale.rows(blocks, codes.shape[-1]).to(dtype)

    def narrow(self, parts: tuple[Tensor, ...], width: int) -> tuple[Tensor, ...]:
        """Return ``parts`` as products read them in ``width`` bits, one of ``widths``."""
        raise NotImplementedError

    def start(self, scale: Scale, stored: tuple[Tensor, ...]) -> Tensor:
        """Return what kernels count codes from, where it is not 0: [..., G], of the stored parts of ``scale``."""
        return scale.start(*stored)

    def step(self, x: Tensor, scale: Scale, rounding: Rounding) -> Tensor:
        """Return the largest error of an element in each block of ``x`` [..., K]: float64 [..., G].

        The share of a gap that ``rounding`` allows, and the roundings of the scale, its inverse and their product, at most 8 eps of the
        largest; what the scale lets saturate comes on top. Blocks below the smallest that counts become zero.
        """
        a = largest_of(scale.blocks(x.float())).squeeze(-1)
        _, stored = scale.fit(a, self.grid)
        unit, a = scale.unit(*stored).double(), a.double()
        saturated = (a - unit * self.grid.largest * (1 + 4 * EPS)).clamp(min=0.0)
        error = rounding.share * unit * self.grid.gap + saturated + 8 * EPS * a
        return torch.where(unit == 0.0, a, error)


class Panels(ABC):
    """The packed layout of a format: 16 output rows in a panel, shared by every ISA (docs/arithmetic.md, "Packed weights")."""

    codes: tuple[int, int]
    """The codes that the layout holds, and that every kernel multiplies right."""
    behind: int = 0
    """Rows behind the panels of a packed weight, for what all of it has in common."""
    planes: ClassVar[bool] = False
    """Whether codes lie in planes of bits (csrc/formats/planes.h)."""
    quantizers: bool = True
    """Whether kernels quantize to it too; else plain torch does."""

    @abstractmethod
    def nbytes(self, k: int, scale: Scale) -> int:
        """Return the bytes of a panel for rows of ``k``."""

    @abstractmethod
    def pack(self, parts: tuple[Tensor, ...], scale: Scale) -> Tensor:
        """Return parts of [N, K] as int8 [ceil(N / 16) + behind, bytes]."""

    @abstractmethod
    def unpack(self, packed: Tensor, n: int, k: int, scale: Scale) -> tuple[Tensor, ...]:
        """Invert :meth:`pack`: codes [N, K padded] and scales [N, G padded]."""

    def width(self, packed: Tensor) -> int:
        """Return in how many bits products read ``packed``, of a format with ``widths``."""
        raise NotImplementedError

    def switch(self, packed: Tensor, width: int) -> None:
        """Let products read ``packed`` in ``width`` bits from now on."""
        raise NotImplementedError


def largest_of(x: Tensor) -> Tensor:
    """Return the largest magnitude of each row of ``x`` [..., K] as [..., 1]; 0 of a row without elements."""
    return largest(x).unsqueeze(-1)
