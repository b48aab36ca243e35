"""Products with packed weights: int8 x int8 with a treatment of outliers, and weight-only."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats import IN_PLANES, Format, Groups, Operand, Row, Scale
from lowbit_compiler.runtime.formats.affine import U4
from lowbit_compiler.runtime.formats.d8 import D8
from lowbit_compiler.runtime.formats.lines import IntegerLines
from lowbit_compiler.runtime.formats.s4 import S4
from lowbit_compiler.runtime.formats.s8 import S8
from lowbit_compiler.runtime.formats.ternary import Ternary
from lowbit_compiler.runtime.treatments.columns import split_columns
from lowbit_compiler.runtime.treatments.rotation import rotate
from lowbit_compiler.runtime.treatments.rows import split_rows

INT8 = Operand(S8(), Row())
NARROW = Operand(D8(), Row())
TERNARY = Operand(Ternary(), Row())


def _pad(x: Tensor, kp: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, kp - x.shape[-1]))


def _finish(y: Tensor, x: Tensor, bias: Tensor | None, dtype: torch.dtype | None) -> Tensor:
    if bias is not None:
        y = y + bias.float()
    return y.to(dtype or x.dtype).reshape(*x.shape[:-1], y.shape[-1])


Codes = tuple[Tensor, Tensor]
"""int8 codes [N, K padded], and the scales of their rows [N, 1]."""


def _s8s8(
    x: Tensor, kept: Tensor, exact: Tensor | None, w: Codes, bias: Tensor | None, dtype: torch.dtype | None, rotated: bool = False
) -> Tensor:
    qw, sw = w
    kp = qw.shape[1]
    rows = _pad(x.reshape(-1, x.shape[-1]).float(), kp)
    qx, sx = INT8.quantize(kept.reshape(-1, kept.shape[-1]))
    acc = _pad(qx, kp).double() @ qw.double().t()  # exact: every sum is below 2^31
    y = acc.float() * sx
    if exact is not None:
        o = _pad(exact.reshape(-1, exact.shape[-1]).float(), kp) @ qw.float().t()
        y = y + torch.nan_to_num(o)  # special rows are replaced below
    y = y * sw.t()
    special = ~torch.isfinite(rows).all(1) | torch.isnan(sx[:, 0])
    weight = qw.float() * sw
    y[special] = rows[special] @ (rotate(weight) if rotated else weight).t()
    return _finish(y, x, bias, dtype)


def _int8(x: Tensor, w: Tensor, n: int, operand: Operand = INT8) -> Codes:
    q, scale = operand.unpack(w, n, x.shape[-1])
    return q, scale


def _nested(x: Tensor, w: Tensor, n: int, group: int) -> Codes:
    """Return the int8 codes that codes on integer lines stand for."""
    lines = IntegerLines(group)
    *parts, outer = Operand(U4(), lines).unpack(w, n, x.shape[-1])
    return lines.numbers(*parts).to(torch.int8), outer


def linear_s8s8(x: Tensor, w: Tensor, bias: Tensor | None, n: int, dtype: torch.dtype | None) -> Tensor:
    """``x`` [..., K] times packed int8 ``w`` of N rows; the row is quantized as it is."""
    return _s8s8(x, x, None, _int8(x, w, n), bias, dtype)


def linear_s8s8_rotated(x: Tensor, w: Tensor, bias: Tensor | None, n: int, dtype: torch.dtype | None) -> Tensor:
    """The same after a block-Hadamard rotation of ``x``; ``w`` holds the rotated weight."""
    return _s8s8(x, rotate(x), None, _int8(x, w, n), bias, dtype, rotated=True)


def linear_s8s8_columns(x: Tensor, w: Tensor, bias: Tensor | None, n: int, threshold: float, dtype: torch.dtype | None) -> Tensor:
    """LLM.int8(): columns of ``x`` that reach ``threshold`` stay in float and meet the dequantized weight."""
    kept, exact = split_columns(x, threshold)
    return _s8s8(x, kept, exact, _int8(x, w, n), bias, dtype)


def linear_s8s8_rows(x: Tensor, w: Tensor, bias: Tensor | None, n: int, dtype: torch.dtype | None) -> Tensor:
    """The largest elements of each row (at most 16) stay in float and meet the dequantized weight."""
    kept, exact = split_rows(x)
    return _s8s8(x, kept, exact, _int8(x, w, n), bias, dtype)


def linear_s8u4_nested(x: Tensor, w: Tensor, bias: Tensor | None, n: int, group: int, dtype: torch.dtype | None) -> Tensor:
    """``x`` [..., K] in int8 times 4-bit codes that stand for int8 codes."""
    return _s8s8(x, x, None, _nested(x, w, n, group), bias, dtype)


def linear_s8u4_nested_rotated(x: Tensor, w: Tensor, bias: Tensor | None, n: int, group: int, dtype: torch.dtype | None) -> Tensor:
    """The same after a block-Hadamard rotation of ``x``; ``w`` holds the rotated weight."""
    return _s8s8(x, rotate(x), None, _nested(x, w, n, group), bias, dtype, rotated=True)


def linear_s8d8(x: Tensor, w: Tensor, bias: Tensor | None, n: int, dtype: torch.dtype | None) -> Tensor:
    """``x`` [..., K] in int8 times int8 codes in the width that ``w`` says."""
    return _s8s8(x, x, None, _int8(x, w, n, NARROW), bias, dtype)


def linear_s8d8_rotated(x: Tensor, w: Tensor, bias: Tensor | None, n: int, dtype: torch.dtype | None) -> Tensor:
    """The same after a block-Hadamard rotation of ``x``; ``w`` holds the rotated weight."""
    return _s8s8(x, rotate(x), None, _int8(x, w, n, NARROW), bias, dtype, rotated=True)


def linear_s8ternary(x: Tensor, w: Tensor, bias: Tensor | None, n: int, dtype: torch.dtype | None) -> Tensor:
    """``x`` [..., K] in int8 times ternary codes with a scale for each row."""
    return _s8s8(x, x, None, _int8(x, w, n, TERNARY), bias, dtype)


def linear_fs8(x: Tensor, w: Tensor, bias: Tensor | None, n: int, dtype: torch.dtype | None) -> Tensor:
    """Weight-only int8: ``x`` [..., K] stays in float."""
    q, scale = INT8.unpack(w, n, x.shape[-1])
    y = (x.reshape(-1, x.shape[-1]).float() @ q[:, : x.shape[-1]].float().t()) * scale.t()
    return _finish(y, x, bias, dtype)


def linear_fs4(x: Tensor, w: Tensor, bias: Tensor | None, n: int, group: int, dtype: torch.dtype | None) -> Tensor:
    """Weight-only int4 with one scale per ``group`` elements of K."""
    return _weight_only(Operand(S4(), Groups(group)), x, w, bias, n, dtype)


def _weight_only(operand: Operand, x: Tensor, w: Tensor, bias: Tensor | None, n: int, dtype: torch.dtype | None) -> Tensor:
    weight = operand.dequantize(operand.unpack(w, n, x.shape[-1]))[:, : x.shape[-1]]
    return _finish(x.reshape(-1, x.shape[-1]).float() @ weight.t(), x, bias, dtype)


def _in_planes(format: type[Format], scale: type[Scale]) -> Callable[..., Tensor]:
    """Return the weight-only product with codes in planes of bits; ``rest``: the size of a group where there are groups, and the dtype."""

    def linear(x: Tensor, w: Tensor, bias: Tensor | None, n: int, *rest: Any) -> Tensor:
        *group, dtype = rest
        return _weight_only(Operand(format(), scale(*group)), x, w, bias, n, dtype)

    return linear


_IN_PLANES = {f"linear_f{format.name}{scale.suffix}": _in_planes(format, scale) for format, scale in IN_PLANES}


def reference_of(op: str) -> Callable[..., Tensor]:
    """Return the function of the product ``op``."""
    return _IN_PLANES[op] if op in _IN_PLANES else globals()[op]
