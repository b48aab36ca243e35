"""The formats and treatments in plain torch, as tests of their ops call them."""

import torch
from torch import Tensor

from lowbit_compiler.recipes import Recipe
from lowbit_compiler.runtime.formats import Groups, Operand, Row
from lowbit_compiler.runtime.formats.s4 import S4
from lowbit_compiler.runtime.formats.s8 import S8
from lowbit_compiler.runtime.packing import PANEL
from lowbit_compiler.runtime.products import Plan
from lowbit_compiler.runtime.treatments.columns import hit_columns, split_columns
from lowbit_compiler.runtime.treatments.rotation import rotate
from lowbit_compiler.runtime.treatments.rows import ROW_CAPACITY, ROW_CUTS, split_rows

__all__ = ["INT8", "PANEL", "ROW_CAPACITY", "ROW_CUTS", "hit_columns", "rotate", "split_columns", "split_rows"]

INT8 = Operand(S8(), Row())
Pair = tuple[Tensor, ...]
_KEYS, _KEY = torch._C.DispatchKeySet, torch._C.DispatchKey


def reference(op: str, *arguments: object) -> Tensor:
    """Call ``op`` without its kernel."""
    return getattr(torch.ops.lowbit, op).default.redispatch(_KEYS(_KEY.PrivateUse1), *arguments)  # type: ignore[no-any-return]


def int4(group: int) -> Operand:
    """Return int4 in groups of ``group``."""
    return Operand(S4(), Groups(group))


def quantize_s8(x: Tensor) -> Pair:
    """Return codes and scales of rows."""
    return INT8.quantize(x)


def dequantize_s8(q: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the rows of codes and scales."""
    return INT8.dequantize((q, scale), dtype)


def quantize_s4(w: Tensor, group: int) -> Pair:
    """Return codes and scales of groups."""
    return int4(group).quantize(w)


def dequantize_s4(q: Tensor, scale: Tensor, group: int, dtype: torch.dtype) -> Tensor:
    """Return the weight of codes and scales."""
    return int4(group).dequantize((q, scale), dtype)


def pack_s8(q: Tensor, scale: Tensor) -> Tensor:
    """Return packed panels."""
    return INT8.pack((q, scale))


def unpack_s8(packed: Tensor, n: int) -> Pair:
    """Return codes and scales of panels."""
    return INT8.unpack(packed, n, (packed.shape[1] - 8 * PANEL) // PANEL)


def pack_s4(q: Tensor, scale: Tensor, group: int) -> Tensor:
    """Return packed panels."""
    return int4(group).pack((q, scale))


def unpack_s4(packed: Tensor, n: int, k: int, group: int) -> Pair:
    """Return codes and scales of panels."""
    return int4(group).unpack(packed, n, k)


def packed_bytes(k: int, group: int | None = None) -> int:
    """Return the bytes of a panel of int8, or int4 in groups."""
    return (INT8 if group is None else int4(group)).panel_bytes(k)


def plan(weights: str, activations: str, treatment: str = "none", group_size: int = 64) -> Plan:
    """Return the plan of a recipe."""
    return Recipe("test", weights, activations, treatment, group_size=group_size).plan
