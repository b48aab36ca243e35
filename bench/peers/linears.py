"""Single linears: this project's ops and torch's, on the same bfloat16 weight and activations, results in bfloat16.

Weights are packed before. Quantizing the activations is part of what is timed, but for oneDNN's op: torch has no quick way to prepare its
input, and it takes one scale for the whole tensor, which is easier and less accurate than one a row.
"""

from collections.abc import Callable

import torch
from columns import Case
from tasks import Task
from torch import Tensor

from lowbit_compiler.runtime import ops

GROUP = 64
L = torch.ops.lowbit
assert ops  # registers lowbit's ops


def build(task: Task, case: Case, call: str) -> Callable[[Tensor], Tensor]:
    """Return the linear named ``call`` on the weight of ``task``."""
    made: Callable[[Tensor], Tensor] = globals()[f"_{call}"](task.net.weight, case.tokens)
    return made


def _bf16(w: Tensor, m: int) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.nn.functional.linear(x, w)


def _bf16_packed(w: Tensor, m: int) -> Callable[[Tensor], Tensor]:
    packed = torch.ops.mkldnn._reorder_linear_weight(w, m)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def _s8s8(w: Tensor, m: int) -> Callable[[Tensor], Tensor]:
    packed, n = L.pack_s8(*L.quantize_s8(w)), w.shape[0]
    return lambda x: L.linear_s8s8(x, packed, None, n, None)


def _s8s8_rotated(w: Tensor, m: int) -> Callable[[Tensor], Tensor]:
    packed, n = L.pack_s8(*L.quantize_s8(L.rotate(w))), w.shape[0]
    return lambda x: L.linear_s8s8_rotated(x, packed, None, n, None)


def _fs8(w: Tensor, m: int) -> Callable[[Tensor], Tensor]:
    packed, n = L.pack_s8(*L.quantize_s8(w)), w.shape[0]
    return lambda x: L.linear_fs8(x, packed, None, n, None)


def _fs4(w: Tensor, m: int) -> Callable[[Tensor], Tensor]:
    packed, n = L.pack_s4(*L.quantize_s4(w, GROUP), GROUP), w.shape[0]
    return lambda x: L.linear_fs4(x, packed, None, n, GROUP, None)


def _qlinear(w: Tensor, m: int) -> Callable[[Tensor], Tensor]:
    qw, scales = L.quantize_s8(w)
    n, k = w.shape
    packed = torch.ops.onednn.qlinear_prepack(qw, [m, k])
    scales, zeros = scales.flatten(), torch.zeros(n, dtype=torch.int64)
    known: dict[int, tuple[Tensor, float]] = {}

    def run(x: Tensor) -> Tensor:
        if id(x) not in known:
            known[id(x)] = quantized(x)
        q, scale = known[id(x)]
        y: Tensor = torch.ops.onednn.qlinear_pointwise(q, scale, 0, packed, scales, zeros, None, 1.0, 0, torch.bfloat16, "none", [], "")
        return y

    def quantized(x: Tensor) -> tuple[Tensor, float]:
        scale = float(x.abs().max()) / 127
        return torch.round(x.float() / scale).to(torch.int8), scale

    return run


def _int_mm(w: Tensor, m: int) -> Callable[[Tensor], Tensor]:
    qw, scales = L.quantize_s8(w)
    wt, row = qw.t(), scales.t()

    def run(x: Tensor) -> Tensor:
        q, s = L.quantize_s8(x)
        return (torch._int_mm(q, wt).float() * s * row).to(x.dtype)

    return run
