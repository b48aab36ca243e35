"""What only the values of an op's arguments show: memory that was given back, codes that do not exist, weights of another shape.

Asked where values are there to be read at once: on the CPU, by csrc/bind (in the same words) or before the reference.
"""

from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.checks import require
from lowbit_compiler.runtime.packing import K_BLOCK, PANEL, aligned, padded_k

CODES = {"pack_s8": (-127, 127), "pack_s4": (-8, 7)}
"""The codes that a layout holds, and that every kernel multiplies right."""


def check(op: str, arguments: dict[str, Any]) -> None:
    """Raise RuntimeError if the values of ``arguments`` (by name) cannot be what ``op`` takes."""
    tensors = {name: value for name, value in arguments.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        _memory(op, name, tensor)
    if any(tensor.device.type != "cpu" for tensor in tensors.values()):
        return
    if op in CODES:
        _codes(op, arguments["q"], *CODES[op])
    if op.startswith("linear_"):
        _padding(op, arguments["x"].shape[-1], arguments["w"], arguments["n"], arguments.get("group"))


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


def _padding(op: str, k: int, w: Tensor, n: int, group: int | None) -> None:
    """Check that ``w`` is zero where a weight [n, k] is padded: one of more rows or columns is not, unless those are zero.

    The last panel is looked at for rows, the first for columns: little to read at every call.
    """
    if n == 0:
        return
    kp = padded_k(k, group or K_BLOCK)
    codes = PANEL * kp // 2 if group else PANEL * kp
    scales = aligned(w[-1, codes if group else codes + 4 * PANEL :]).view(torch.float32).reshape(-1, PANEL)
    rows = n - (w.shape[0] - 1) * PANEL
    require(op, not scales[:, rows:].any(), f"w packed for n = {n}", "one of more rows")
    if op == "linear_s8s8_rotated":  # the rotation leaves no padding
        return
    first = w[0, :codes].reshape(kp // 8, PANEL, 4) if group else w[0, :codes].reshape(kp // 4, PANEL, 4)
    nibbles = torch.cat([first & 15, first >> 4 & 15], 1).reshape(-1, 2, PANEL, 4) - 8 if group else first
    columns = nibbles.reshape(kp // 4, PANEL, 4).transpose(0, 1).reshape(PANEL, kp)
    require(op, not columns[:, k:].any(), f"w packed for K = {k}", "one of more columns")
