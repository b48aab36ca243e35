"""The one table from what a product's operands are to the op that multiplies them. No entry means emulated.

An emulated product keeps its quantize and dequantize nodes around a float product, which the compiler of the remainder makes code of.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats import IN_PLANES, Format, Groups, Operand, Row, Scale, SharedRow
from lowbit_compiler.runtime.formats.affine import U4
from lowbit_compiler.runtime.formats.d8 import D8
from lowbit_compiler.runtime.formats.lines import IntegerLines
from lowbit_compiler.runtime.formats.s4 import S4
from lowbit_compiler.runtime.formats.s8 import S8
from lowbit_compiler.runtime.formats.ternary import Ternary
from lowbit_compiler.runtime.treatments import Columns, Nothing, Rotation, Rows, Treatment
from lowbit_compiler.runtime.treatments.treatment import at_once

MAX_K = 133_144  # largest K whose int8 products cannot overflow int32: floor((2^31 - 1) / 127^2)
MAX_K_NARROW = 132_104  # of codes down to -128


FIXED_ERROR = (
    1 / 2 + 2.0**-8
) / 32639  # half a step of numbers of two signed bytes, and the rounding of the product that is rounded to them
BF16_ERROR = 2.0**-8  # unit roundoff

Stored = Tensor | tuple[Tensor, ...]
"""A weight as a compiled model keeps it: packed, or in its parts."""


@dataclass(frozen=True)
class Plan:
    """How one product is computed: ``x`` is None where the activation stays float."""

    x: Operand | None
    w: Operand
    treatment: Treatment = field(default_factory=Nothing)

    @property
    def product(self) -> "Product | None":
        """The op that computes it; None: there is none, and it is emulated."""
        return PRODUCTS.get(self.inner._key)

    @property
    def inner(self) -> "Plan":
        """What the op itself computes: where it takes float activations, and does not know the treatment, those come to it treated."""
        outside = self.x is None and not self.treatment.splits and self._key not in PRODUCTS
        return Plan(None, self.w) if outside and (None, self.w.kind, Nothing) in PRODUCTS else self

    @property
    def _key(self) -> tuple[Any, Any, type[Treatment]]:
        return None if self.x is None else self.x.kind, self.w.kind, type(self.treatment)

    @property
    def op(self) -> str:
        """Name of the ``lowbit::`` op that computes this plan; "" where none does."""
        return "" if self.product is None else self.product.op

    @property
    def opened(self) -> bool:
        """Whether ONNX files have steps of their own for it."""
        return self.product is not None and self.product.opened

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What this op takes between ``n`` and ``dtype``."""
        return (*self.inner.treatment.arguments, *self.w.arguments)

    @property
    def name(self) -> str:
        """For people."""
        treated = "" if self.treatment == Nothing() else f" {self.treatment.name}"
        return f"{self.w.name} x {'float' if self.x is None else self.x.name}{treated}"

    def over(self, groups: tuple[str, ...]) -> "Plan | None":
        """Return this plan for rows of which the processes of ``groups`` have a part each, with the bits of one process; None: there is none."""
        if self.x is None:
            return None
        x, w = (one.scale.over(groups) for one in (self.x, self.w))
        if x is None or w is None:
            return None
        plan = replace(self, x=replace(self.x, scale=x), w=replace(self.w, scale=w))
        return plan if plan.product is not None else None

    def taking(self, w: Operand, treatment: Treatment) -> "Plan":
        """Return this plan for a weight that is in ``w`` already, after ``treatment``.

        What is done to activations stays where that leaves the weight as it is and some op computes the product; else they stay float.
        """
        kept = self.treatment if self.treatment.weight_ops == treatment.weight_ops else treatment
        if w == self.w:
            return Plan(self.x, w, kept)
        plan = Plan(self.x, w, kept)
        return plan if plan.product is not None else Plan(None, w, treatment)

    def parts(self, stored: "Stored", n: int, k: int) -> tuple[Tensor, ...]:
        """Return codes and scales of a weight [n, k] as it is stored: packed where there is an op, else these parts."""
        return self.w.unpack(stored, n, k) if isinstance(stored, Tensor) else stored

    def emulate(self, x: Tensor, parts: tuple[Tensor, ...], bias: Tensor | None, dtype: torch.dtype | None = None) -> Tensor:
        """Return the product of ``x`` [..., K] and the quantized weight ``parts`` [N, K], with ``bias`` [N], as emulated graphs compute it."""
        return self.multiply(x, self.w.dequantize(parts), bias, dtype)

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype | None = None) -> Tensor:
        """Return the same for the treated ``weight`` [N, K padded] in float32, as it is after quantization."""
        kept, exact = self.treatment.activation(at_once, x.float())
        low = kept if self.x is None else self.x.dequantize(self.x.quantize(kept))
        product = torch.ops.lowbit.product_f32
        y = product(low, weight, None if bias is None else bias.float())
        total: Tensor = y if exact is None else y + product(exact, weight, None)
        return total.to(dtype or x.dtype)


@dataclass(frozen=True)
class Product:
    """An op ``lowbit::<op>(x, w, bias, n, ..., dtype)`` on packed weights."""

    op: str
    family: str
    """The kernels that multiply, as csrc/common names them; those of a row or the exact part are others."""
    schema: str = ""
    """Its arguments between ``n`` and ``dtype``."""
    largest_k: int | None = None
    exact_sums: bool = False
    """Whether it adds integers, which is exact."""
    fixed_error: float = 0.0
    """Of the largest magnitude of a group of float x, where few rows become 16-bit integers: error of its elements."""
    weight_error: float = 0.0
    """Of an element of the weight, where bfloat16 rows meet it rounded to bfloat16."""
    norms: bool = True
    """Whether rows may go through a norm in front of it: that of a part of a row is another."""
    opened: bool = True
    """Whether ONNX files have steps of their own for it; else they multiply its dequantized operands."""


_S8, _S4, _SHARED = (S8, Row), (S4, Groups), (S8, SharedRow)
_s8s8 = partial(Product, family="qgemm", largest_k=MAX_K, exact_sums=True)
_shared = partial(_s8s8, schema=SharedRow.schema, norms=False, opened=False)


def _in_planes(format: type[Format], scale: type[Scale]) -> Product:
    """Float rows, a few of which become 16-bit integers, times codes in planes of bits."""
    name = format.name + scale.suffix
    rounded = 0.0 if scale.integers or not scale.sizes else BF16_ERROR  # the integers of a row under one scale are exact
    return Product(
        f"linear_f{name}", family=f"fgemm_{name}", schema=scale.schema, fixed_error=FIXED_ERROR, weight_error=rounded, opened=False
    )


PRODUCTS: dict[tuple[Any, Any, type[Treatment]], Product] = {
    (_S8, _S8, Nothing): _s8s8("linear_s8s8"),
    (_S8, _S8, Rotation): _s8s8("linear_s8s8_rotated"),
    (_S8, _S8, Columns): _s8s8("linear_s8s8_columns", schema="float threshold"),
    (_S8, _S8, Rows): _s8s8("linear_s8s8_rows"),
    (_SHARED, _SHARED, Nothing): _shared("linear_s8s8_shared"),
    (_SHARED, _SHARED, Rotation): _shared("linear_s8s8_shared_rotated"),
    (_S8, (U4, IntegerLines), Nothing): _s8s8("linear_s8u4_nested", family="qgemm_u4", schema="int group", opened=False),
    (_S8, (U4, IntegerLines), Rotation): _s8s8("linear_s8u4_nested_rotated", family="qgemm_u4", schema="int group", opened=False),
    (_S8, (D8, Row), Nothing): _s8s8("linear_s8d8", largest_k=MAX_K_NARROW),
    (_S8, (D8, Row), Rotation): _s8s8("linear_s8d8_rotated", largest_k=MAX_K_NARROW),
    (_S8, (Ternary, Row), Nothing): _s8s8("linear_s8ternary", family="qgemm_ternary", opened=False),
    (None, _S8, Nothing): Product("linear_fs8", family="fgemm_s8"),
    (None, _S4, Nothing): Product("linear_fs4", family="fgemm_s4", schema="int group", weight_error=BF16_ERROR),
    **{(None, kind, Nothing): _in_planes(*kind) for kind in IN_PLANES},
}
"""By the kinds of x (None: float) and w, and the treatment."""

KEYS = {product.op: key for key, product in PRODUCTS.items()}
"""The key of each op."""
ACCURATE = Plan(None, Operand(S8(), Row()))
"""What rounds least of all that has a kernel: taken where it is faster than what the recipe asks for."""


def weight_of(op: str, arguments: Mapping[str, Any]) -> Operand:
    """Return the weight that the product ``op`` takes, for the op's ``arguments`` by name."""
    _, (format, scale), _ = KEYS[op]
    return Operand.of(format, scale, arguments)
