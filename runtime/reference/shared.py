"""Products of int8 rows by int8 weights over several processes, each of which has a part of K: the bits of one process (docs/arithmetic.md).

The steps are ops of their own, so that compilers see the collectives between them: maxima of rows, sums of codes, results. ``fused`` is
what rows go through in front, by the names of the ops' arguments.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.format import largest_of
from lowbit_compiler.runtime.formats.scales import inverse_and_unit
from lowbit_compiler.runtime.reference.linear import INT8
from lowbit_compiler.runtime.reference.prologue import SCHEMA
from lowbit_compiler.runtime.reference.prologue import prologue as through
from lowbit_compiler.runtime.treatments.rotation import rotate
from lowbit_compiler.torch_internals import collectives

INF, NAN = 0x7F800000, 0x7FFFFFFF
"""The reach of a row that is not finite: from ``INF`` on; ``NAN`` where the row has a NaN before it is treated."""
SCHEMAS = {
    "reach_s8": f"(Tensor x, bool rotated{SCHEMA}) -> Tensor",
    "sums_s8s8": f"(Tensor x, Tensor reach, Tensor w, int n, bool rotated{SCHEMA}) -> Tensor",
    "scale_sums": "(Tensor sums, Tensor reach, Tensor w, Tensor? bias, int k, ScalarType dtype) -> Tensor",
    "finish_sums": "(Tensor x, Tensor sums, Tensor reach, Tensor w, Tensor? bias, bool rotated, str[] groups, ScalarType dtype"
    f"{SCHEMA}) -> Tensor",
}


def reach_s8(x: Tensor, rotated: bool, **fused: Any) -> Tensor:
    """Return the bits of the largest magnitude of each row of ``x`` [..., K], treated: int32 [..., 1], in which NaN is larger than all."""
    rows = _read(x, **fused)
    bits = largest_of(_treated(rows, rotated)).view(torch.int32) & NAN
    return torch.where(torch.isnan(rows).any(-1, keepdim=True), torch.full_like(bits, NAN), bits)


def reach_s8_shapes(x: Tensor, rotated: bool, **fused: Any) -> Tensor:
    """Return an empty tensor like the result."""
    return x.new_empty((*x.shape[:-1], 1), dtype=torch.int32)


def sums_s8s8(x: Tensor, reach: Tensor, w: Tensor, n: int, rotated: bool, **fused: Any) -> Tensor:
    """Return the sums of codes of ``x`` [..., K], which ``reach`` [..., 1] scales, and packed ``w``: int32 [..., n], 0 where a row is not finite."""
    v = _treated(_read(x, **fused), rotated)
    inverse, _ = inverse_and_unit(reach.view(torch.float32), INT8.format.grid.largest)
    q = INT8.format.grid.encode(torch.where(reach < INF, v, torch.zeros_like(v)) * inverse)
    qw, _ = INT8.unpack(w, n, x.shape[-1])
    q = torch.nn.functional.pad(q, (0, qw.shape[1] - q.shape[-1]))
    return (q.double() @ qw.double().t()).to(torch.int32)  # exact: every sum is below 2^31


def sums_s8s8_shapes(x: Tensor, reach: Tensor, w: Tensor, n: int, rotated: bool, **fused: Any) -> Tensor:
    """Return an empty tensor like the result."""
    return x.new_empty((*x.shape[:-1], n), dtype=torch.int32)


def scale_sums(sums: Tensor, reach: Tensor, w: Tensor, bias: Tensor | None, k: int, dtype: torch.dtype) -> Tensor:
    """Return [..., N] in ``dtype`` of the sums of all processes; NaN where a row is not finite."""
    _, scale = inverse_and_unit(reach.view(torch.float32), INT8.format.grid.largest)
    _, of_w = INT8.unpack(w, sums.shape[-1], k)
    y = sums.float() * scale * of_w.t().reshape(-1)
    return (y if bias is None else y + bias.float()).to(dtype)


def scale_sums_shapes(sums: Tensor, *rest: Any) -> Tensor:
    """Return an empty tensor like the result."""
    return sums.new_empty(sums.shape, dtype=rest[-1])


def finish_sums(x: Tensor, sums: Tensor, reach: Tensor, w: Tensor, bias: Tensor | None, *rest: Any, **fused: Any) -> Tensor:
    """Return the product in the dtype of ``rest`` (rotated, groups, dtype) of the sums of all processes.

    Rows with Inf, and finite ones that a rotation makes infinite, are float rows, whose sums have the order of one process: where there are
    any, all rows and the weight are put together, and multiplied as there. All processes know ``reach``, so all or none do.
    """
    rotated, groups, dtype = rest
    if bool(((reach >= INF) & (reach != NAN)).any()):
        return _whole(x, w, bias, sums.shape[-1], rotated, groups, dtype, fused)
    return torch.ops.lowbit.scale_sums(sums, reach, w, bias, x.shape[-1], dtype)  # type: ignore[no-any-return]


def finish_sums_shapes(x: Tensor, sums: Tensor, *rest: Any, **fused: Any) -> Tensor:
    """Return an empty tensor like the result."""
    return sums.new_empty(sums.shape, dtype=rest[-1])


def linear(rotated: bool) -> Callable[..., Tensor]:
    """Return the product of ``x`` [..., K], this process's columns, and packed ``w`` of N rows, over the processes of ``groups``."""

    def call(x: Tensor, w: Tensor, bias: Tensor | None, n: int, groups: Sequence[str], dtype: torch.dtype | None, **fused: Any) -> Tensor:
        ops = torch.ops.lowbit
        reach = ops.reach_s8(x, rotated, **fused)
        for group in groups:
            reach = collectives.reduced(reach, "max", group)
        sums = ops.sums_s8s8(x, reach, w, n, rotated, **fused)
        for group in groups:
            sums = collectives.reduced(sums, "sum", group)
        return ops.finish_sums(x, sums, reach, w, bias, rotated, groups, dtype or x.dtype, **fused)  # type: ignore[no-any-return]

    return call


def _read(x: Tensor, prologue: str = "", times: Tensor | None = None, plus: Tensor | None = None, eps: float = 0.0) -> Tensor:
    return through(x, prologue, times, plus, eps)


def _treated(x: Tensor, rotated: bool) -> Tensor:
    return rotate(x) if rotated else x


def _whole(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    n: int,
    rotated: bool,
    groups: Sequence[str],
    dtype: torch.dtype,
    fused: dict[str, Any],
) -> Tensor:
    """Return the product of what all processes have, as one computes it."""
    ops = torch.ops.lowbit
    q, scale = INT8.unpack(w, n, x.shape[-1])
    parts = {"x": x, "q": q if rotated else q[:, : x.shape[-1]], **{name: one for name, one in fused.items() if isinstance(one, Tensor)}}
    for group in reversed(groups):  # a dimension of a mesh that comes later cuts what the ones before it leave
        parts = {name: collectives.gathered(part, group) for name, part in parts.items()}
    whole, codes = parts.pop("x"), parts.pop("q")
    product = ops.linear_s8s8_rotated if rotated else ops.linear_s8s8
    return product(whole, ops.pack_s8(codes.contiguous(), scale.contiguous()), bias, n, dtype, **{**fused, **parts})  # type: ignore[no-any-return]
