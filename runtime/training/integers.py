"""Plans whose operands are integers with one scale a row: three ops with kernels on the CPU, and their plain-torch reference.

What is kept of an operand is codes of 8 bits, int8 [R, k], or of 4, two in a byte, uint8 [R, ceil(k / 2)], and scales float32 [R, 1]; ``rotated``
ones are turned with fixed signs first, and have whole blocks of 64 columns.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats import Operand, Row
from lowbit_compiler.runtime.formats.s4 import S4
from lowbit_compiler.runtime.formats.s8 import S8
from lowbit_compiler.runtime.products import MAX_K, Plan
from lowbit_compiler.runtime.rounding import STOCHASTIC
from lowbit_compiler.runtime.training.backward import INPUT, WEIGHT, Draw, Folded
from lowbit_compiler.runtime.training.matrix import Matrix, multiply, shapes
from lowbit_compiler.runtime.training.plan import FORWARD, GRAD_INPUT, GRAD_WEIGHT, Kept, TrainingPlan, rows_of
from lowbit_compiler.runtime.training.rotation import Signed
from lowbit_compiler.runtime.treatments import Nothing, Treatment
from lowbit_compiler.runtime.treatments.treatment import at_once

ROTATED = Signed(64)
OPERANDS = {4: Operand(S4(), Row()), 8: Operand(S8(), Row())}
"""By the bits of a code."""
SCHEMAS = {
    "train_quantize": "(Tensor x, int bits, bool rotated) -> (Tensor, Tensor)",
    "train_multiply": "(Tensor x, Tensor x_scale, Tensor w, Tensor w_scale, Tensor? bias, int bits, int k, ScalarType dtype) -> Tensor",
    "train_fold": "(Tensor dy, Tensor q, Tensor scale, Tensor seed, int site, bool columns, int bits, bool rotated, int k, ScalarType dtype) "
    "-> Tensor",
}


@dataclass(frozen=True)
class Integers(TrainingPlan):
    """Both operands of the forward product in one format, and gradients drawn in it that meet the saved codes (:func:`in_integers`).

    Raises ValueError for other products: kernels know these.
    """

    def __post_init__(self) -> None:
        """Ask."""
        gradient = Folded(replace(self.forward.w, rounding=STOCHASTIC))
        same = self.forward.w in OPERANDS.values() and self.forward == Plan(self.forward.w, self.forward.w, _treatment(self.rotated))
        if not (same and self.grad_input == self.grad_weight == gradient):
            raise ValueError(
                f"expected operands and gradients in one format of {sorted(OPERANDS)} bits, got {self.names}: make it a TrainingPlan"
            )

    @property
    def bits(self) -> int:
        """Of a code."""
        return self.forward.w.format.grid.bits

    @property
    def rotated(self) -> bool:
        """Whether there is a rotation."""
        return self.forward.treatment == ROTATED

    @property
    def kernels(self) -> dict[str, str]:
        """The same for both gradients."""
        return {FORWARD: "train_multiply", GRAD_INPUT: "train_fold", GRAD_WEIGHT: "train_fold"}

    @property
    def quantizer(self) -> tuple[str, tuple[Any, ...]]:
        """Its signs are the same for all linears."""
        return "train_quantize", (self.bits, self.rotated)

    @property
    def keeps_weight(self) -> bool:
        """Quantizing is a hundredth of what a linear takes (bench/training/linear.py)."""
        return True

    def linear(self, x: Tensor, w: Tensor, bias: Tensor | None, dtype: torch.dtype, shared: Kept) -> tuple[Tensor, Kept, Kept]:
        """Quantize both, multiply."""
        width = self.forward.treatment.padded(w.shape[1])
        if width > MAX_K:
            y, kept, _ = super().linear(x, w, bias, dtype, shared)
            return y, ([] if shared else kept), []
        kept = shared or self._quantized(x)
        y = torch.ops.lowbit.train_multiply(*kept, *self._quantized(w), bias, self.bits, width, dtype)
        return y, ([] if shared else kept), []

    def _quantized(self, x: Tensor) -> Kept:
        return list(torch.ops.lowbit.train_quantize(x, self.bits, self.rotated))

    def input_gradient(self, dy: Tensor, x: Kept, w: Kept, draw: Draw, k: int, dtype: torch.dtype) -> Tensor:
        """Rows of ``dy`` meet the weight, whose codes are the forward product's."""
        kept = self._quantized(*w)
        return (
            self._fold(dy, kept, draw, k, dtype, columns=False)
            if dy.shape[-1] <= MAX_K
            else super().input_gradient(dy, x, kept, draw, k, dtype)
        )

    def weight_gradient(self, dy: Tensor, x: Kept, w: Kept, draw: Draw, k: int, dtype: torch.dtype) -> Tensor:
        """Columns of ``dy`` meet the activation."""
        long = x[0].shape[0] > MAX_K
        return super().weight_gradient(dy, x, w, draw, k, dtype) if long else self._fold(dy, x, draw, k, dtype, columns=True)

    def _fold(self, dy: Tensor, kept: Kept, draw: Draw, k: int, dtype: torch.dtype, columns: bool) -> Tensor:
        return torch.ops.lowbit.train_fold(dy, *kept, draw.seed, draw.site, columns, self.bits, self.rotated, k, dtype)  # type: ignore[no-any-return]


def in_integers(bits: int, rotated: bool = False) -> Integers:
    """Return the plan of linears in ``bits`` (4 or 8)."""
    operand = OPERANDS[bits]
    product = Folded(replace(operand, rounding=STOCHASTIC))
    return Integers(Plan(operand, operand, _treatment(rotated)), product, product)


def _treatment(rotated: bool) -> Treatment:
    return ROTATED if rotated else Nothing()


def train_quantize(x: Tensor, bits: int, rotated: bool) -> tuple[Tensor, Tensor]:
    """Return what is kept of ``x`` float [..., K]: codes and scales of its rows."""
    rows, _ = _treatment(rotated).activation(at_once, rows_of(x))
    codes, scale = Matrix.of(OPERANDS[bits], rows).save()
    return codes, scale


def train_quantize_shapes(x: Tensor, bits: int, rotated: bool) -> tuple[Tensor, Tensor]:
    """Return empty tensors like the results."""
    codes, scale = shapes(OPERANDS[bits], x, rows_of(x).shape[0], _treatment(rotated).padded(x.shape[-1]))
    return codes, scale


def train_multiply(
    x: Tensor, x_scale: Tensor, w: Tensor, w_scale: Tensor, bias: Tensor | None, bits: int, k: int, dtype: torch.dtype
) -> Tensor:
    """Return x w^T + bias [M, N] in ``dtype`` for codes of ``k`` columns: exact sums, times both scales."""
    a, b = (Matrix.saved(OPERANDS[bits], kept, k) for kept in ((x, x_scale), (w, w_scale)))
    y = multiply(a, b)
    return (y if bias is None else y + bias.float()).to(dtype)


def train_multiply_shapes(x: Tensor, x_scale: Tensor, w: Tensor, *rest: Any) -> Tensor:
    """Return an empty tensor like the result."""
    return x.new_empty((x.shape[0], w.shape[0]), dtype=rest[-1])


def train_fold(
    dy: Tensor, q: Tensor, scale: Tensor, seed: Tensor, site: int, columns: bool, bits: int, rotated: bool, k: int, dtype: torch.dtype
) -> Tensor:
    """Return dX [..., k] of the rows of ``dy`` [..., N] and the kept weight or, with ``columns``, dW [N, k] of its columns and the kept activation.

    Rows or columns times the scales of what they meet, one for each number, are drawn with one scale; sums of codes are exact.
    """
    plan, draw = in_integers(bits, rotated), Draw(seed, site, WEIGHT if columns else INPUT)
    if columns:
        return TrainingPlan.weight_gradient(plan, dy, [q, scale], [], draw, k, dtype)
    return TrainingPlan.input_gradient(plan, dy, [], [q, scale], draw, k, dtype).reshape(*dy.shape[:-1], k)


def train_fold_shapes(dy: Tensor, q: Tensor, scale: Tensor, seed: Tensor, site: int, columns: bool, *rest: Any) -> Tensor:
    """Return an empty tensor like the result."""
    *_, k, dtype = rest
    return dy.new_empty((dy.shape[-1], k) if columns else (*dy.shape[:-1], k), dtype=dtype)
