"""One operand of a product in low precision: a format, where its scales live, and how it is rounded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.format import Format, Panels
from lowbit_compiler.runtime.formats.part import Part
from lowbit_compiler.runtime.formats.scales import Scale
from lowbit_compiler.runtime.packing import PANEL
from lowbit_compiler.runtime.rounding import NEAREST, Rounding


@dataclass(frozen=True)
class Operand:
    """How one operand is quantized."""

    format: Format
    scale: Scale
    rounding: Rounding = NEAREST

    @classmethod
    def of(cls, format: type[Format], scale: type[Scale], arguments: Mapping[str, Any]) -> "Operand":
        """Return the operand of an op with these ``arguments`` by name; raises ValueError for those of no format."""
        mine, its = ([arguments[name] for name in argument_names(each.schema)] for each in (format, scale))
        return cls(format(*mine), scale(*its))

    @property
    def name(self) -> str:
        """For people."""
        return " ".join(filter(None, (str(self.format), self.scale.name, "" if self.rounding is NEAREST else self.rounding.name)))

    @property
    def spelling(self) -> str:
        """What tells its kind in files and in arguments of ops: the names of format and scale."""
        format, scale = self.kind
        return f"{format.name}{scale.suffix}"

    @property
    def kind(self) -> tuple[type[Format], type[Scale]]:
        """What the table of products knows it by: the classes of format and scale, whatever their arguments."""
        return type(self.format), type(self.scale)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What the ops take behind their tensors."""
        return (*self.format.arguments, *self.scale.arguments)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The tensors that it is stored as."""
        return self.format.parts(self.scale)

    def op(self, verb: str) -> Any:
        """Return the op ``lowbit::<verb>_<format>``; verbs: quantize, dequantize, pack."""
        return getattr(torch.ops.lowbit, op_name(verb, *self.kind)).default

    def quantize(self, x: Tensor, importance: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the parts of ``x`` [..., K]; ``importance`` [K] as in :meth:`Format.quantize`."""
        return self.format.quantize(x, self.scale, importance)

    def draw(self, x: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        """Return the parts of ``x`` [..., K] as its random rounding makes them of ``noise`` [..., K], uniform in (0, 1)."""
        return self.format.encode(x, self.scale, noise)

    def dequantize(self, parts: tuple[Tensor, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Return [..., K] of ``parts``."""
        return self.format.dequantize(parts, self.scale, dtype)

    def row_bytes(self, k: int) -> int:
        """Return the bytes of a row of ``k``: codes in their own bits, and scales but for one that the whole tensor has."""
        counts = {"block": self.scale.count(k), "row": 1, "tensor": 0}
        return -(-k * self.format.grid.bits // 8) + sum(part.dtype.itemsize * counts[part.each] for part in self.scale.parts)

    def panel_bytes(self, k: int) -> int:
        """Return the bytes of 16 packed rows of ``k``."""
        return self._panels.nbytes(k, self.scale)

    def packed_rows(self, n: int) -> int:
        """Return the rows of a packed weight of ``n`` rows: a panel for 16 of them, and what is behind the panels."""
        return -(-n // PANEL) + self._panels.behind

    def pack(self, parts: tuple[Tensor, ...]) -> Tensor:
        """Return parts of [N, K] as int8 [packed rows, bytes]."""
        return self._panels.pack(parts, self.scale)

    def unpack(self, packed: Tensor, n: int, k: int) -> tuple[Tensor, ...]:
        """Invert :meth:`pack`: codes [N, K padded] and scales [N, G padded]."""
        return self._panels.unpack(packed, n, k, self.scale)

    def width(self, packed: Tensor) -> int:
        """Return in how many bits products read ``packed``, of a format with ``widths``."""
        return self._panels.width(packed)

    @property
    def _panels(self) -> Panels:
        assert self.format.panels is not None, f"{self.name} has no layout for kernels"
        return self.format.panels

    def step(self, x: Tensor) -> Tensor:
        """Return the largest error of an element in each block of ``x`` [..., K]: float64 [..., G]."""
        return self.format.step(x, self.scale, self.rounding)

    def unit(self, x: Tensor) -> Tensor:
        """Return what the grid's number 1 stands for in each block of ``x``: float64 [..., G]."""
        return self.scale.unit(*self.quantize(x)[1 : 1 + len(self.scale.parts)]).double()

    def start(self, x: Tensor) -> Tensor:
        """Return what kernels count the codes of each block of ``x`` from, where it is not 0: float64 [..., G]."""
        return self.format.start(self.scale, self.quantize(x)[1 : 1 + len(self.scale.parts)]).double()


def op_name(verb: str, format: type[Format], scale: type[Scale]) -> str:
    """Return the name of an op without its namespace."""
    return f"{verb}_{format.name}{scale.suffix}"


def argument_names(schema: str) -> list[str]:
    """Return the names in a part of an op's schema, such as ``int e, int m``."""
    return [argument.split()[-1] for argument in schema.split(", ") if argument]
