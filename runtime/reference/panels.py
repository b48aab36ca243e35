"""Packed weights taken apart again, of one process or of several whose rows lie in panels of their own."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lowbit_compiler.runtime.formats import SPELLED, Operand
from lowbit_compiler.runtime.formats.operand import argument_names
from lowbit_compiler.runtime.packing import PANEL


def operand_of(spelling: str, arguments: Sequence[Any]) -> Operand:
    """Return the operand of a format's ``spelling`` with these ``arguments``; raises ValueError for none."""
    if spelling not in SPELLED or SPELLED[spelling][0].panels is None:
        raise ValueError(f"expected the name of a format with panels, got {spelling!r}")
    format, scale = SPELLED[spelling]
    names = [*argument_names(format.schema), *argument_names(scale.schema)]
    if len(names) != len(arguments):
        raise ValueError(f"expected the arguments {names} of {spelling}, got {list(arguments)}")
    return Operand.of(format, scale, dict(zip(names, arguments, strict=True)))


def unpack(packed: Tensor, format: str, arguments: Sequence[int], n: int, k: int, rows: int) -> list[Tensor]:
    """Return the parts [n, k] and [n, G] of int8 ``packed`` [panels, bytes]: ``rows`` from one panel on, the next ones from another on."""
    operand = operand_of(format, arguments)
    held = -(-rows // PANEL) * PANEL
    parts = operand.unpack(packed, packed.shape[0] * PANEL, k)
    widths = (k, *(part.shape((n, k), operand.scale.count(k))[-1] for part in operand.parts[1:]))
    each = [part[:, :width].reshape(-1, held, width)[:, :rows].reshape(-1, width) for part, width in zip(parts, widths, strict=True)]
    return [part[:n].contiguous() for part in each]


def unpack_shapes(packed: Tensor, format: str, arguments: Sequence[int], n: int, k: int, rows: int) -> list[Tensor]:
    """Return empty tensors like the results."""
    operand = operand_of(format, arguments)
    count = operand.scale.count(k)
    shapes = [(n, k), *(part.shape((n, k), count) for part in operand.parts[1:])]
    return [packed.new_empty(shape, dtype=part.dtype) for shape, part in zip(shapes, operand.parts, strict=True)]
