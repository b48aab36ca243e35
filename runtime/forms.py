"""In what form the weights of a model that FSDP2 cuts by rows travel between processes: made of the rows of each, read where all are together."""

import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats import Operand
from lowbit_compiler.runtime.packing import PANEL
from lowbit_compiler.runtime.training.integers import OPERANDS, in_integers
from lowbit_compiler.runtime.training.matrix import Matrix
from lowbit_compiler.runtime.treatments import Treatment
from lowbit_compiler.runtime.treatments.treatment import Call, at_once

CHUNK = 1 << 22
"""Bytes of float32 rows that are quantized at a time."""


class Form(ABC):
    """What a weight [N, K] travels as. Rows are quantized alone, so that what many processes have made together is what one would have made."""

    @abstractmethod
    def made(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Return what a process sends of its ``rows`` [R, K]: matrices, of which those of all processes are put below one another."""

    @abstractmethod
    def weight(self, call: Call, parts: tuple[Any, ...], shape: tuple[int, int], rows: int, dtype: torch.dtype) -> Any:
        """Return the weight of ``shape`` in ``dtype`` for the ``parts`` of all processes, which have ``rows`` each."""

    def known(self, op: Any, arguments: tuple[Any, ...], parts: tuple[Tensor, ...]) -> Any:
        """Return what ``op`` makes of the weight, its first argument, where that is in the ``parts``; None for any other call."""
        return None


@dataclass(frozen=True)
class Packed(Form):
    """Panels as kernels read them: where each process has whole panels, together they are the packed weight."""

    operand: Operand
    treatment: Treatment

    def made(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Return int8 [ceil(R / 16), bytes of a panel]."""
        settings = self.operand.arguments
        step = max(CHUNK // (4 * max(rows.shape[1], 1)) // PANEL, 1) * PANEL
        panels = []
        for start in range(0, max(len(rows), 1), step):
            treated = self.treatment.weight(at_once, rows[start : start + step].float())
            parts = self.operand.op("quantize")(treated, *settings)
            panels.append(self.operand.op("pack")(*parts, *settings))
        return (torch.cat(panels) if len(panels) > 1 else panels[0],)

    def weight(self, call: Call, parts: tuple[Any, ...], shape: tuple[int, int], rows: int, dtype: torch.dtype) -> Any:
        """Dequantize what the panels hold."""
        (packed,), (n, k), operand = parts, shape, self.operand
        unpacked = call(
            torch.ops.lowbit.unpack.default, packed, operand.spelling, list(operand.arguments), n, self.treatment.padded(k), rows
        )
        each = [call(operator.getitem, unpacked, index) for index in range(len(operand.parts))]
        treated = call(operand.op("dequantize"), *each, *operand.arguments, torch.float32)
        return call(torch.ops.aten.to.dtype, self.treatment.untreated(call, treated, k), dtype)


@dataclass(frozen=True)
class Saved(Form):
    """Codes of whole rows and their scales, as the products of recipes that train take and save them (runtime/training/integers.py)."""

    bits: int
    rotated: bool

    def made(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Return int8 [R, k] or uint8 [R, ceil(k / 2)], and float32 [R, 1]."""
        return tuple(torch.ops.lowbit.train_quantize.default(rows, self.bits, self.rotated))

    def weight(self, call: Call, parts: tuple[Any, ...], shape: tuple[int, int], rows: int, dtype: torch.dtype) -> Any:
        """Dequantize the codes."""
        if self == Saved(8, False):  # in an op that other recipes know
            return call(torch.ops.aten.to.dtype, call(OPERANDS[8].op("dequantize"), *parts, torch.float32), dtype)
        return call(_dequantized, *parts, self.bits, self.rotated, shape[1], dtype)

    def known(self, op: Any, arguments: tuple[Any, ...], parts: tuple[Tensor, ...]) -> Any:
        """The weight is quantized already."""
        same = op is torch.ops.lowbit.train_quantize.default and tuple(arguments[1:]) == (self.bits, self.rotated)
        return parts if same else None


def _dequantized(codes: Tensor, scale: Tensor, bits: int, rotated: bool, k: int, dtype: torch.dtype) -> Tensor:
    plan = in_integers(bits, rotated)
    matrix = Matrix.saved(plan.forward.w, [codes, scale], plan.forward.treatment.padded(k))
    return plan.forward.treatment.transposed(matrix.value, k).to(dtype)
