"""Treatments of weights and activations as maps from float to float: what a product sees after quantize and dequantize.

A map takes rows [M, K] in float32 and returns what is left of them. Maps of rotated operands rotate back (the matrix is symmetric
and orthogonal), so every map stays in the model's own basis and any two can be combined. The pieces are the project's reference.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats import Groups, Operand, Row
from lowbit_compiler.runtime.formats.s4 import S4
from lowbit_compiler.runtime.formats.s8 import S8
from lowbit_compiler.runtime.treatments.columns import split_columns
from lowbit_compiler.runtime.treatments.rotation import rotate
from lowbit_compiler.runtime.treatments.rows import split_rows

Map = Callable[[Tensor], Tensor]
INT8 = Operand(S8(), Row())


@dataclass(frozen=True)
class Scheme:
    """What happens to the activations ``x`` and weights ``w`` of every linear, and to those of the output head."""

    group: str
    name: str
    x: Map | None = None  # None = float
    w: Map | None = None
    head_x: Map | None = None
    head_w: Map | None = None


@dataclass
class Split:
    """Some elements exact, the rest through ``inner``; counts what it kept exact."""

    split: Callable[[Tensor], tuple[Tensor, Tensor]]
    inner: Map
    counts: dict[str, int] = field(default_factory=lambda: {"exact": 0, "all": 0})

    def __call__(self, x: Tensor) -> Tensor:
        kept, exact = self.split(x)
        self.counts["exact"] += int(torch.count_nonzero(exact))
        self.counts["all"] += exact.numel()
        return self.inner(kept) + exact


def int8(x: Tensor) -> Tensor:
    """One scale per row."""
    return INT8.dequantize(INT8.quantize(x))


def int8_tensor(x: Tensor) -> Tensor:
    """One scale for the whole tensor."""
    return int8(x.reshape(1, -1)).reshape(x.shape)


def int8_searched(w: Tensor) -> Tensor:
    """One scale per row, shrunk where clipping gives the smaller squared error."""
    return _best(w, w.abs().amax(-1, keepdim=True), (1.0, 0.98, 0.96, 0.94, 0.92, 0.9, 0.87, 0.84), 127, 127)


def int4(w: Tensor, group: int) -> Tensor:
    """One scale per group, 15 levels."""
    groups = Operand(S4(), Groups(group))
    return groups.dequantize(groups.quantize(w))


def int4_searched(w: Tensor, group: int) -> Tensor:
    """The same with the scale shrunk where that gives the smaller squared error."""
    g = w.reshape(w.shape[0], -1, group)
    return _best(g, g.abs().amax(-1, keepdim=True), (1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.75, 0.7), 7, 7).reshape(w.shape)


def int4_signed(w: Tensor, group: int) -> Tensor:
    """16 levels, -8 to 7: the scale carries the sign that makes the group's largest element -8."""
    g = w.reshape(w.shape[0], -1, group)
    largest = g.gather(-1, g.abs().argmax(-1, keepdim=True))
    return _best(g, -largest, (1.0,), 8, 7).reshape(w.shape)


def int4_minimum(w: Tensor, group: int) -> Tensor:
    """16 levels between the group's minimum and maximum."""
    g = w.reshape(w.shape[0], -1, group)
    low, high = g.amin(-1, keepdim=True), g.amax(-1, keepdim=True)
    step = ((high - low) / 15).clamp_min(torch.finfo(torch.float32).tiny)
    return (torch.round((g - low) / step) * step + low).reshape(w.shape)


def _best(w: Tensor, a: Tensor, shrink: tuple[float, ...], down: int, up: int) -> Tensor:
    best, least = w, torch.full_like(a, torch.inf)
    for factor in shrink:
        s = torch.where(a == 0, torch.ones_like(a), a) * (factor / down)
        candidate = torch.round(w / s).clamp(-down, up) * s
        error = (candidate - w).square().sum(-1, keepdim=True)
        best = torch.where(error < least, candidate, best)
        least = torch.minimum(error, least)
    return best


def rotated(inner: Map, x: Tensor) -> Tensor:
    """``inner`` on rotated rows, rotated back."""
    return rotate(inner(rotate(x)))[..., : x.shape[-1]]


def rotated_in_blocks(inner: Map, block: int, x: Tensor) -> Tensor:
    """The same with the largest block that is a power of two, divides K and is at most ``block``."""
    block = min(block, x.shape[-1] & -x.shape[-1])
    h = torch.ones(1, 1)
    while len(h) < block:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    h = h * block**-0.5
    turned: Tensor = x.reshape(-1, block) @ h
    back: Tensor = inner(turned.reshape(x.shape)).reshape(-1, block) @ h
    return back.reshape(x.shape)


def two_digits(x: Tensor) -> Tensor:
    """Rows that use few of the 127 levels get a second int8 row, which holds what the first one missed."""
    q, s = INT8.quantize(x)
    first = INT8.dequantize((q, s))
    thin = q.abs().sum(-1, keepdim=True) < 16 * q.shape[-1]
    return torch.where(thin, first + int8(x - first), first)


def split_largest(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest elements of every row are exact."""
    exact = torch.zeros_like(x).scatter(-1, (top := x.abs().topk(count, -1).indices), x.gather(-1, top))
    return x - exact, exact


def split_spikes(x: Tensor) -> tuple[Tensor, Tensor]:
    """In rows whose maximum exceeds 16 times their root mean square, elements above half the maximum are exact."""
    a = x.abs().amax(-1, keepdim=True)
    hit = (x.abs() > a / 2) & (a > 16 * x.square().mean(-1, keepdim=True).sqrt())
    return torch.where(hit, torch.zeros_like(x), x), torch.where(hit, x, torch.zeros_like(x))


def schemes() -> list[Scheme]:
    """Every scheme of docs/treatments.md, in its order."""
    turn = partial(rotated, int8)
    turn32, turn512 = (partial(rotated_in_blocks, int8, block) for block in (32, 512))
    largest = {n: Split(partial(split_largest, count=n), int8) for n in (4, 16)}
    rotation = Scheme("head", "rotation, head in float", turn, turn)
    body, weights, four = "int8 x int8", "int8 weights", "int4 weights"
    return [
        Scheme("", "float"),
        Scheme(body, "per-tensor, activations and weights", int8_tensor, int8_tensor),
        Scheme(body, "`none` (vector-wise)", int8, int8),
        Scheme(body, "`columns` at 6.0", Split(partial(split_columns, threshold=6.0), int8), int8),
        Scheme(body, "`rows`", Split(split_rows, int8), int8),
        Scheme(body, "4 largest of each row exact", largest[4], int8),
        Scheme(body, "16 largest of each row exact", largest[16], int8),
        Scheme(body, "`rotation`", turn, turn),
        Scheme(body, "rotation in blocks of 32", turn32, turn32),
        Scheme(body, "rotation, blocks of up to 512", turn512, turn512),
        Scheme(body, "rotation, weight scales searched", turn, partial(rotated, int8_searched)),
        Scheme(body, "rotation, spikes exact before it", Split(split_spikes, turn), turn),
        Scheme(body, "rotation, two digits for thin rows", partial(rotated, two_digits), turn),
        Scheme("head", "rotation, spikes exact before it, head rotated", Split(split_spikes, turn), turn, turn, turn),
        replace(rotation, name="rotation, head `none`", head_x=int8, head_w=int8),
        replace(rotation, name="rotation, head weight-only int8", head_w=int8),
        replace(rotation, name="rotation, head rotated", head_x=turn, head_w=turn),
        replace(rotation, name="rotation, head int4 in groups of 128", head_w=partial(int4, group=128)),
        Scheme(weights, "weights int8", None, int8),
        Scheme(weights, "weights int8, head too", None, int8, None, int8),
        Scheme(weights, "weights int8, rotated", None, turn),
        *(Scheme(four, f"groups of {g}", None, partial(int4, group=g)) for g in (32, 64, 128)),
        *(Scheme(four, f"groups of {g}, clip searched", None, partial(int4_searched, group=g)) for g in (32, 64, 128)),
        *(Scheme(four, f"groups of {g}, 16 levels, signed scale", None, partial(int4_signed, group=g)) for g in (32, 64)),
        Scheme(four, "groups of 32, 16 levels, minimum and scale", None, partial(int4_minimum, group=32)),
    ]
