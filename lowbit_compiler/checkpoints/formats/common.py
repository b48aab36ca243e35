"""What the formats of other libraries become here."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.checkpoints.scheme import WEIGHT, Scheme
from lowbit_compiler.checkpoints.source import Source, Stored
from lowbit_compiler.checkpoints.tensor_files import TensorFiles
from lowbit_compiler.errors import CheckpointError
from lowbit_compiler.runtime.formats import Groups, Operand, Row
from lowbit_compiler.runtime.formats.affine import U8
from lowbit_compiler.runtime.formats.lines import HalfLines
from lowbit_compiler.runtime.formats.s4 import S4
from lowbit_compiler.runtime.formats.s8 import S8
from lowbit_compiler.runtime.formats.zeros import Z4, Z6, FloatLines
from lowbit_compiler.runtime.treatments import Nothing

ROWS = Operand(S8(), Row())
LINES = Operand(U8(), HalfLines(128))
LEAST = -127
"""Of the int8 codes of ``ROWS``, which kernels multiply with int8 activations."""


def rows_of(codes: Tensor, scales: Tensor, uses: tuple[str, ...]) -> Stored:
    """Return int8 ``codes`` [N, K] with ``scales`` [N, 1].

    With a code of -128 they are numbers of 8 bits without sign on a line from -128 on, in steps of 1, under the row's scale: the same values.
    """
    scales = scales.float().contiguous()
    if not codes.numel() or int(codes.amin()) >= LEAST:
        return Stored(Scheme(ROWS, Nothing()), {WEIGHT: codes, "weight_scale": scales}, uses)
    count = LINES.scale.count(codes.shape[1])
    slope, minimum = (torch.full((len(codes), count), value, dtype=torch.float16) for value in (1.0, -128.0))
    scheme = Scheme(LINES, Nothing())
    return Stored(scheme, scheme.store(((codes ^ -128).view(torch.uint8), slope, minimum, scales)), uses)


def _ours(name: str, k: int, size: Any, sizes: tuple[int, ...]) -> int:
    """Return the largest of ``sizes`` that groups of ``size`` are whole numbers of; raises CheckpointError where there is none."""
    found = next((each for each in sorted(sizes, reverse=True) if type(size) is int and size > 0 and size % each == 0), None)
    if found is None:
        raise CheckpointError(f"{name}: groups of {size!r} elements are not read (K = {k}); accepted: multiples of {min(sizes)}")
    return found


def groups(name: str, k: int, size: Any) -> tuple[Scheme, int]:
    """Return the scheme of symmetric 4-bit groups of ``size``, and how many groups of ours one of them is; raises CheckpointError where it is none."""
    ours = _ours(name, k, size, Groups.sizes)
    return Scheme(Operand(S4(), Groups(ours)), Nothing()), size // ours


def scales_of(scales: Tensor, scheme: Scheme, k: int, repeats: int) -> Tensor:
    """Return the scales of our groups in float32, for those of larger ones [N, G]."""
    count = scheme.operand.scale.count(k)
    return scales.float().repeat_interleave(repeats, 1)[:, :count].contiguous() if repeats > 1 else scales.float().contiguous()


def zeros(name: str, k: int, size: Any, format: type[Z4] | type[Z6]) -> tuple[Scheme, int]:
    """Return the scheme of groups of ``size`` with zero points, and how many groups of ours one of them is; raises CheckpointError for none."""
    ours = _ours(name, k, size, FloatLines.sizes)
    return Scheme(Operand(format(), FloatLines(ours)), Nothing()), size // ours


def lines_of(scheme: Scheme, codes: Tensor, slope: Tensor, minimum: Tensor, repeats: int, uses: tuple[str, ...]) -> Stored:
    """Return ``codes`` [N, K] without sign on lines [N, G], of groups that are ``repeats`` of ours."""
    k = codes.shape[1]
    outer = torch.ones(len(codes), 1)
    parts = (codes, scales_of(slope, scheme, k, repeats), scales_of(minimum, scheme, k, repeats), outer)
    return Stored(scheme, scheme.store(parts), uses)


def nibbles(words: Tensor, order: tuple[int, ...] = tuple(range(8))) -> Tensor:
    """Return the eight numbers of 4 bits in each int32 word [..., W] as uint8 [..., 8 W]; number i is at place ``order[i]``, from the lowest bits on."""
    return torch.stack([(words >> 4 * place & 15).to(torch.uint8) for place in order], -1).flatten(-2)


class Words(Source):
    """Files with ``qweight`` and ``qzeros`` in int32 words of eight, and ``scales`` [G, N], of groups of ``group`` columns, -1: all (AWQ, GPTQ)."""

    KEYS = ("qweight", "qzeros", "scales")
    FLOATS = (torch.float16, torch.bfloat16, torch.float32)

    def __init__(self, files: TensorFiles, group: Any) -> None:
        super().__init__(files)
        self._group = group

    @property
    def named(self) -> set[str]:
        """The linears that have a ``qweight``."""
        return {name.removesuffix(".qweight") for name in self.files if name.endswith(".qweight")}

    def linear(self, name: str, n: int, k: int) -> Stored | None:
        """Read the linear ``name`` where it is low-bit."""
        return self.read(name, n, k, k if self._group == -1 else self._group) if f"{name}.qweight" in self.files else None

    @abstractmethod
    def read(self, name: str, n: int, k: int, group: Any) -> Stored:
        """Read the weight [n, k] of a linear that there is; raises CheckpointError where it is not as it should be."""
