"""What only the values of an op's arguments show: memory that was given back, codes that do not exist, weights of another shape.

Asked where values are there to be read at once: on the CPU, by csrc/bind (in the same words) or before the reference.
"""

from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime import chain
from lowbit_compiler.runtime.formats import KINDS, SHARED, Operand
from lowbit_compiler.runtime.formats.operand import op_name
from lowbit_compiler.runtime.packing import PANEL
from lowbit_compiler.runtime.products import KEYS, weight_of
from lowbit_compiler.runtime.require import require

CODES = {op_name("pack", format, scale): format.panels.codes for format, scale in (*KINDS, *SHARED) if format.panels}
"""The codes that each layout holds."""


def check(op: str, arguments: dict[str, Any]) -> None:
    """Raise RuntimeError if the values of ``arguments`` (by name) cannot be what ``op`` takes."""
    tensors = [(name, each) for name, value in arguments.items() for each in (value if isinstance(value, list) else [value])]
    tensors = [(name, each) for name, each in tensors if isinstance(each, Tensor)]
    for name, tensor in tensors:
        _memory(op, name, tensor)
    if any(tensor.device.type != "cpu" for _, tensor in tensors):
        return
    if op in CODES:
        _codes(op, arguments["q"], *CODES[op])
    if op in KEYS:
        _padding(op, weight_of(op, arguments), arguments["w"], arguments["n"], arguments["x"].shape[-1], KEYS[op][2].rotates)
    if op == chain.OP:
        for number, step in enumerate(chain.decode(arguments["program"], arguments["eps"])):
            if step.kind == chain.Kind.PRODUCT:
                linear = chain.LINEARS[step.linear]
                w, weight = arguments["constants"][step.weight], weight_of(linear, {"group": step.group})
                _padding(op, weight, w, step.columns, step.x_count, KEYS[linear][2].rotates, f" in step {number}")


def _memory(op: str, name: str, tensor: Tensor) -> None:
    if not tensor.numel():
        return
    last = tensor.storage_offset() + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    needed, there = (last + 1) * tensor.element_size(), tensor.untyped_storage().nbytes()
    require(op, needed <= there, f"{name} with {needed} bytes of memory", there)


def _codes(op: str, q: Tensor, least: int, most: int) -> None:
    if q.numel():
        low, high = (int(end) for end in q.aminmax())
        require(op, least <= low and high <= most, f"codes from {least} to {most}", low if low < least else high)


def _padding(op: str, weight: Operand, w: Tensor, n: int, k: int, rotates: bool, where: str = "") -> None:
    """Check that ``w`` is zero where a weight [n, k] is padded: one of more rows or columns is not, unless those are zero.

    The last panel is looked at for rows, the first for columns: little to read at every call.
    """
    if n == 0:
        return
    what = "a weight" if where else "w"
    panels = -(-n // PANEL)
    if widths := weight.format.widths:
        width = weight.width(w)
        require(op, width in widths, f"a width in {widths} behind the panels", width)
    rows = n - (panels - 1) * PANEL
    _, *scales = weight.unpack(w[panels - 1 :], PANEL, k)
    require(op, not any(scale[rows:].any() for scale in scales), f"{what} packed for n = {n}{where}", "one of more rows")
    first = torch.cat([w[:1], w[panels:]])
    if not rotates:  # a rotation leaves no padding
        require(op, not weight.unpack(first, PANEL, k)[0][:, k:].any(), f"{what} packed for K = {k}{where}", "one of more columns")
