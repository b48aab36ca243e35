"""Times the linears of a model here, in float and in each low-bit candidate, on weights that come from memory as in a real model."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowbit_compiler.passes.calls import LinearCall
from lowbit_compiler.pricing import gpu
from lowbit_compiler.pricing.timing import Timer
from lowbit_compiler.runtime.packing import PANEL
from lowbit_compiler.runtime.products import Plan
from lowbit_compiler.runtime.timings import ROUNDS
from lowbit_compiler.runtime.treatments.treatment import at_once

RING = 32 << 20  # bytes of weights that are read before any is read again: more than a cache keeps between two layers
MAX_WEIGHT = 16 << 20  # bytes of one timed float weight
MAX_ROWS, FEW_ROWS = 256, 64  # above the first a row takes the same time; fewer than the second are never left out
FULL_WIDTH = 256  # outputs that keep all kernels busy: a narrower part would no longer resemble the whole
MAX_WORK = 1 << 29  # multiplications: some 7 ms in float32 on one good core, 1 ms on tiles
LONG = 0.1  # seconds for all candidates where single calls take milliseconds
OUTLIERS = 128  # one column in so many stands out, for treatments to have some work
FILL = 0x3C  # as a byte of any float weight this gives a number near 0.01 or 1, never a denormal
VALUE = 0.03  # of packed weights


@dataclass(frozen=True)
class Limits:
    """How much is timed at most on one kind of device: bytes of a float weight, rows, multiplications."""

    weight: int
    rows: int
    work: int


GPU_LIMITS = Limits(weight=256 << 20, rows=4096, work=1 << 38)  # a GPU takes milliseconds for these


def limits_of(device: str) -> Limits:
    """Return how much is timed at most on ``device``."""
    return Limits(MAX_WEIGHT, MAX_ROWS, MAX_WORK) if device == "cpu" else GPU_LIMITS


def measured_linear(call: LinearCall, timer: Timer) -> dict[str, float]:
    """Return the seconds of "float" and of each plan's op; of a large call a part is timed, and the times are scaled up."""
    part = smaller_linear(call, limits_of(timer.device))
    share = call.rows * sum(call.widths) / (part.rows * sum(part.widths))
    names = ["float", *(plan.op for plan in part.plans)]
    found = timer.seconds(_text(part), names, lambda: candidates(part, timer), size=min(read_by(part)), long=LONG)
    return {name: share * time for name, time in found.items()}


def _text(call: LinearCall) -> str:
    """Return what is timed, for files: the candidates by what their ops are called with."""
    ops = (f"{plan.op}({', '.join(map(str, plan.arguments))}){_before(plan)}" for plan in call.plans)
    return f"{call} by {', '.join(ops)}"


def _before(plan: Plan) -> str:
    """Return the name of what is done in front of the op, as part of what is timed."""
    return "" if plan.inner == plan else f" of {plan.treatment.name}"


def smaller_linear(call: LinearCall, limits: Limits | None = None) -> LinearCall:
    """Return ``call`` with narrower weights, then with fewer rows, where it takes too long or its weights are too large.

    Rows last: a part with few rows would wait for its weights where the whole waits for multiplications.
    """
    limits = limits or limits_of("cpu")
    rows, widths = min(call.rows, limits.rows), call.widths

    def long() -> bool:
        return rows * call.k * sum(widths) > limits.work

    def narrow(limit: int) -> None:
        nonlocal widths
        while (long() or call.k * sum(widths) * call.stored.itemsize > limits.weight) and sum(widths) > limit and max(widths) > PANEL:
            widths = tuple(max(width // 2, PANEL) for width in widths)

    narrow(FULL_WIDTH)
    while long() and rows > FEW_ROWS:
        rows = -(-rows // 2)
    narrow(PANEL)
    return replace(call, rows=rows, widths=widths)


def candidates(call: LinearCall, timer: Timer) -> dict[str, Callable[[], object]]:
    """Return a function for each candidate that computes one call of it; every call reads other weights than the last ones did."""
    x = torch.rand(call.rows, call.k, generator=torch.Generator().manual_seed(0), device="cpu").sub_(0.5)
    x[:, ::OUTLIERS] *= 32
    x = x.to(timer.device, call.dtype)
    x = x.t().contiguous().t() if call.column_major else x
    floats, packed = _sizes(call)
    copies = _copies([*floats, *packed], 2 if call.near else _turns(call, timer.device), timer.memory)
    made: dict[str, Callable[[], object]] = {"float": _float(call, x, [copy[: len(floats)] for copy in copies])}
    for plan, weights in zip(call.plans, zip(*(copy[len(floats) :] for copy in copies), strict=True), strict=True):
        made[plan.op] = _low_bit(call, plan, x, weights)
    return made


def _sizes(call: LinearCall) -> tuple[list[int], list[int]]:
    """Return the bytes of each float weight, and of all of them packed for each plan."""
    floats = [call.k * width * call.stored.itemsize for width in call.widths]
    return floats, [plan.w.packed_rows(sum(call.widths)) * plan.w.panel_bytes(call.k) for plan in call.plans]


def read_by(call: LinearCall) -> list[int]:
    """Return the bytes of weights that a call of each candidate reads, float first."""
    floats, packed = _sizes(call)
    return [sum(floats), *packed]


def _turns(call: LinearCall, device: str) -> int:
    """Return how many copies are read in turn: enough that none is in a cache when it is read again."""
    read = read_by(call)
    if device != "cpu":
        return gpu.that_fit(gpu.copies(min(read), device), sum(read), device)
    return min(max(math.ceil(RING / sum(read)), 2), ROUNDS[1] + 1)  # more would never be read


def _float(call: LinearCall, x: Tensor, copies: Sequence[Sequence[Tensor]]) -> Callable[[], object]:
    """Return the products that Inductor calls for siblings: mm or addmm for each."""
    shapes = [(call.k, width) if call.transposed else (width, call.k) for width in call.widths]
    weights = [[raw.fill_(FILL).view(call.stored).view(shape) for raw, shape in zip(copy, shapes, strict=True)] for copy in copies]
    factors = itertools.cycle([[weight if call.transposed else weight.t() for weight in copy] for copy in weights])
    biases = [torch.zeros(width, dtype=call.dtype, device=x.device) for width in call.widths]

    def products() -> object:
        copy = next(factors)
        if call.stored != call.dtype:
            copy = [factor.to(call.dtype) for factor in copy]
        if not call.bias:
            return [torch.mm(x, factor) for factor in copy]
        return [torch.addmm(bias, x, factor) for bias, factor in zip(biases, copy, strict=True)]

    return products


def _low_bit(call: LinearCall, plan: Plan, x: Tensor, copies: Sequence[Tensor]) -> Callable[[], object]:
    op = getattr(torch.ops.lowbit, plan.op).default
    n = sum(call.widths)
    bias = torch.zeros(n, dtype=call.dtype, device=x.device) if call.bias else None
    packed = [raw.view(-1, plan.w.panel_bytes(call.k)) for raw in copies]
    # Whole panels, and one that may end in padding, which the ops want to be zero.
    whole, last = _filled(call, plan, PANEL), _filled(call, plan, (n - 1) % PANEL + 1)
    for each in packed:
        each[: -len(last)] = whole[:1]
        each[-len(last) :] = last
    weights: Iterator[Tensor] = itertools.cycle(packed)
    if plan.inner == plan:
        return lambda: op(x, next(weights), bias, n, *plan.arguments, None)
    return lambda: op(plan.treatment.activation(at_once, x)[0], next(weights), bias, n, *plan.arguments, x.dtype)


def _filled(call: LinearCall, plan: Plan, rows: int) -> Tensor:
    """Return one packed panel of ``rows`` rows of one small number."""
    return plan.w.pack(plan.w.quantize(torch.full((rows, call.k), VALUE)))


def _copies(sizes: list[int], number: int, memory: Callable[[int], Tensor]) -> list[list[Tensor]]:
    """Return ``number`` sets of int8 tensors of ``sizes``, in one piece of ``memory``."""
    aligned = [-(-size // 64) * 64 for size in sizes]
    piece = memory(number * sum(aligned))
    starts = itertools.accumulate(aligned * number, initial=0)
    parts = [piece[start : start + size] for start, size in zip(starts, sizes * number, strict=False)]
    return [parts[i : i + len(sizes)] for i in range(0, len(parts), len(sizes))]
