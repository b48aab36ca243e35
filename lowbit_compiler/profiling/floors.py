"""What a site needs at least on this machine: its weights at the memory's speed, its activations copied once, its operations at the peak.

The three speeds are measured here and remembered beside the planner's timings (runtime/timings.py).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from lowbit_compiler.passes.calls import hint
from lowbit_compiler.passes.graph import value
from lowbit_compiler.passes.site import Site
from lowbit_compiler.pricing.timing import Timer
from lowbit_compiler.torch_internals import fused

LARGEST = 1 << 30  # bytes of a timed read
SCALES = 1 << 20  # bytes from which on twice as many take twice as long; below, a part of the time is that of the call
M, N, K = 512, 1024, 1024  # a product that keeps every core at work and stays in the caches


@dataclass(frozen=True)
class Work:
    """What one op must do: ``operations`` are multiplications and additions in ``format`` ("int8" or a float dtype's name)."""

    weights: int
    """Bytes of packed weights."""
    activations: int
    """Bytes read and written beside the weights."""
    operations: int
    format: str
    device: str = "cpu"


def work_of(site: Site) -> Work:
    """Return the work of a lowered site, with the hints of symbolic sizes; the bytes of packed weights are left 0."""
    tensors = [value(arg) for arg in site.node.args]
    tensors = [x for x in (*tensors, value(site.node)) if isinstance(x, torch.Tensor)]
    x, out = tensors[0], tensors[-1]
    moved = sum(_bytes(tensor) for tensor in tensors) - (_bytes(tensors[1]) if site.kind == "linear" else 0)
    kind = str(x.dtype).removeprefix("torch.")
    if site.kind == "attention":
        q, k, v = ([hint(size) for size in tensor.shape] for tensor in tensors[:3])
        pairs = q[2] * k[2]
        if site.node.args[4]:  # causal: row i sees the keys up to its own
            pairs = sum(min(k[2], i + 1) for i in range(q[2]))
        return Work(0, moved, 2 * q[0] * q[1] * pairs * (q[3] + v[3]), kind, x.device.type)
    if site.kind == "softmax":
        return Work(0, moved, 0, kind, x.device.type)
    operations = 2 * _elements(x) * hint(out.shape[-1])
    integers = site.plan is not None and site.plan.product is not None and site.plan.product.exact_sums
    return Work(0, moved, operations, "int8" if integers else kind, x.device.type)


def sum_of(works: Sequence[Work]) -> Work:
    """Return the work of a call that does several; their formats are one."""
    first = works[0]
    return replace(first, activations=sum(work.activations for work in works), operations=sum(work.operations for work in works))


def _elements(tensor: torch.Tensor) -> int:
    return math.prod(hint(size) for size in tensor.shape)


def _bytes(tensor: torch.Tensor) -> int:
    return _elements(tensor) * tensor.element_size()


def floor(work: Work, weights: int) -> float:
    """Return the least seconds that ``work`` takes in a model that reads ``weights`` bytes of weights a step."""
    needs = [read_seconds(weights, work.device) * work.weights / max(weights, 1), copy_seconds(work.activations, work.device)]
    if work.operations:
        needs.append(work.operations / peak(work.format, work.device))
    return max(needs)


def read_seconds(size: int, device: str = "cpu") -> float:
    """Return the seconds of reading ``size`` bytes again and again: from a cache where they fit one, from memory else."""
    timed = min(1 << max(size - 1, 1 << 16).bit_length(), LARGEST)

    def make() -> dict[str, Callable[[], object]]:
        x = torch.zeros(timed // 4, device=device)
        return {"sum": lambda: x.sum()}

    return min(Timer(device).seconds(f"read {timed} bytes", ("sum",), make).values()) * size / timed


def copy_seconds(size: int, device: str = "cpu") -> float:
    """Return the seconds of reading half of ``size`` bytes and writing the other half: no op on them takes less."""
    timed = min(1 << max(size, 1 << 12).bit_length() - 1, LARGEST)

    def make() -> dict[str, Callable[[], object]]:
        x, y = (torch.zeros(timed // 2, dtype=torch.int8, device=device) for _ in range(2))
        return {"copy": lambda: y.copy_(x)}

    least = min(Timer(device).seconds(f"copy {timed} bytes", ("copy",), make).values())
    return least * (size / timed if timed >= SCALES else min(size / timed, 1.0))


def peak(format: str, device: str = "cpu") -> float:
    """Return the most operations a second of a product in ``format``, ours or torch's."""

    def int8() -> dict[str, Callable[[], object]]:
        codes = torch.ones(M, K, dtype=torch.int8, device=device)
        factor = torch.ones(N, K, dtype=torch.int8, device=device)
        packed = torch.ops.lowbit.pack_s8(factor, torch.ones(N, 1, device=device))
        x = codes.to(torch.bfloat16)
        return {
            "lowbit": lambda: torch.ops.lowbit.linear_s8s8(x, packed, None, N, None),
            "torch": lambda: fused.int_mm(codes, factor.t()),
        }

    def floats() -> dict[str, Callable[[], object]]:
        x, w = (torch.ones(rows, K, dtype=getattr(torch, format), device=device) for rows in (M, N))
        return {"torch": lambda: torch.mm(x, w.t())}

    names = ("lowbit", "torch") if format == "int8" else ("torch",)
    found = Timer(device).seconds(f"peak {format} {M} x {K} x {N}", names, int8 if format == "int8" else floats)
    return 2 * M * N * K / min(found.values())
