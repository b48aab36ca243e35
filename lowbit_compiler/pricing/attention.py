"""Times one softmax or attention of a model here, by our op and by torch's, on random tensors of its shapes and strides."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lowbit_compiler.passes.calls import AttentionCall, Cost, SoftmaxCall, TensorSpec
from lowbit_compiler.pricing.gpu import Calls
from lowbit_compiler.pricing.timing import Timer

MAX_ELEMENTS = 1 << 24  # of a timed softmax, and of the keys or mask of a timed attention
MAX_WORK = 1e9  # multiplications of a timed attention: some 50 ms on one core
CALL, CHECKS = 3e-6, 2e-6  # seconds of Inductor's code on a CPU: of its call, and around an op of ours (python bench/softmax/calls.py)


def measured(call: SoftmaxCall | AttentionCall, timer: Timer) -> Cost:
    """Return the seconds of both candidates; a site too large to be timed is timed on a part of its batch, heads or rows.

    A softmax is charged for what is around it. Ours is called directly where it is alone in its graph, where torch's needs a call of Inductor's
    code. In that code ours is checked, and each loop beside it is another loop, which Inductor would have made one with its own softmax.
    """

    def make() -> Calls:
        return _softmax(call, timer.device) if isinstance(call, SoftmaxCall) else _attention(call, timer.device)

    # A scale takes no time of its own.
    found = timer.seconds(str(replace(call, scale=1.0)), ("lowbit", "torch"), make)
    if isinstance(call, SoftmaxCall) and timer.device == "cpu":
        name, around = ("torch", CALL) if call.alone else ("lowbit", CHECKS)
        found[name] += around
    return Cost(**found)


def _softmax(call: SoftmaxCall, device: str = "cpu") -> Calls:
    call = smaller_softmax(call)
    x, mask = _tensor(call.x, device), _tensor(call.mask, device)
    arguments = call.arguments(mask)
    whole = torch.log_softmax if call.log else torch.softmax

    def ours() -> Tensor:
        for _ in range(call.loops):
            x.clone()
        return torch.ops.lowbit.softmax.default(x, *arguments)  # type: ignore[no-any-return]

    return {
        "lowbit": ours,
        # Inductor computes a scale, a mask and casts in the same loops, nearly for nothing: torch is not charged for them.
        "torch": lambda: whole(x, call.dim),
    }


def _attention(call: AttentionCall, device: str = "cpu") -> Calls:
    call = smaller_attention(call)
    q, k, v, mask = (_tensor(x, device) for x in (call.q, call.k, call.v, call.mask))
    theirs = mask if mask is None or mask.dtype is torch.bool else mask.to(q.dtype)
    groups, scales = q.shape[1] // k.shape[1], torch.ones(*k.shape[:3], 1, device=device)

    def torch_attention() -> Tensor:
        keys, values = (x.to(q.dtype) for x in (k, v))  # of int8; Inductor multiplies by the scales on the way
        if call.repeated:
            keys, values = (x.repeat_interleave(groups, 1) for x in (keys, values))
        grouped = groups > 1 and not call.repeated
        return F.scaled_dot_product_attention(q, keys, values, theirs, 0.0, call.causal, scale=call.scale, enable_gqa=grouped)

    def ours() -> Tensor:
        if call.op == "sdpa_codes":
            return torch.ops.lowbit.sdpa_codes(q, k, scales, v, scales, mask, call.causal, call.scale)  # type: ignore[no-any-return]
        return torch.ops.lowbit.sdpa(q, k, v, mask, call.causal, call.scale)  # type: ignore[no-any-return]

    return {"lowbit": ours, "torch": torch_attention}


def _tensor(operand: TensorSpec | None, device: str = "cpu") -> Tensor:
    """Return a random tensor; a boolean one is mostly True. Of a view, what lies between its elements is never touched."""
    if operand is None:
        return None  # type: ignore[return-value]
    sizes, strides = operand.sizes, operand.strides
    tensor = torch.empty_strided(sizes, strides, dtype=operand.dtype, device=device)
    once = [min(size, 1) if stride == 0 else size for size, stride in zip(sizes, strides, strict=True)]
    noise = torch.rand(once, generator=torch.Generator().manual_seed(0), device="cpu")
    tensor.as_strided(once, strides).copy_(noise > 0.1 if operand.dtype is torch.bool else noise.sub_(0.5))
    return tensor


def smaller_softmax(call: SoftmaxCall) -> SoftmaxCall:
    """Return ``call`` with fewer rows where it has too many elements."""
    sizes = list(call.x.sizes)
    for axis in range(len(sizes)):
        while axis != call.dim and sizes[axis] > 1 and math.prod(sizes) > MAX_ELEMENTS:
            sizes[axis] = -(-sizes[axis] // 2)
    return replace(call, x=_cut(call.x, sizes), mask=call.mask and _cut(call.mask, sizes))


def smaller_attention(call: AttentionCall) -> AttentionCall:
    """Return ``call`` with fewer batches, heads or positions where it takes too long."""
    (b, h, rows, e), (_, g, keys, f) = call.q.sizes, call.v.sizes
    share = h // max(g, 1)
    while b * h * (rows * keys * (e + f) / MAX_WORK + keys * (e + f) / MAX_ELEMENTS) > 1 and max(b, g, rows, keys) > 1:
        if b > 1:
            b = -(-b // 2)
        elif g > 1:
            g = -(-g // 2)
            h = g * share
        elif call.causal or rows > max(keys // 4, 1):
            rows, keys = -(-rows // 2), (-(-keys // 2) if call.causal else keys)
        else:
            keys = -(-keys // 2)
    return replace(
        call,
        q=_cut(call.q, (b, h, rows, e)),
        k=_cut(call.k, (b, g, keys, e)),
        v=_cut(call.v, (b, g, keys, f)),
        mask=call.mask and _cut(call.mask, (b, h, rows, keys)),
    )


def _cut(operand: TensorSpec, sizes: Sequence[int]) -> TensorSpec:
    """Return the part of ``operand`` that fits ``sizes``, from the last dimension on."""
    kept = sizes[len(sizes) - len(operand.sizes) :]
    return replace(operand, sizes=tuple(min(size, limit) for size, limit in zip(operand.sizes, kept, strict=True)))
