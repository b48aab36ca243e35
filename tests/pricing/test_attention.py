"""What is timed for a site computes what the site computes, on tensors of its strides, and stays small."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lowbit_compiler.passes.calls import AttentionCall, SoftmaxCall, TensorSpec, operand
from lowbit_compiler.pricing import attention as costs
from lowbit_compiler.pricing import timing


def dense(*sizes: int, dtype: torch.dtype = torch.float32) -> TensorSpec:
    return operand(torch.empty(sizes, dtype=dtype, device="meta"))


def attention(b: int, h: int, g: int, rows: int, keys: int, e: int = 64, **changes: Any) -> AttentionCall:
    q, k = dense(b, h, rows, e), dense(b, g, keys, e)
    return AttentionCall(**{"q": q, "k": k, "v": k, "mask": None, "causal": False, "scale": 0.1, "repeated": h != g, **changes})


CALLS = {
    "plain": attention(2, 4, 4, 9, 17),
    "grouped": attention(2, 4, 2, 9, 17, repeated=False),
    "repeated": attention(2, 4, 2, 9, 17),
    "causal": attention(1, 4, 4, 9, 9, causal=True),
    "boolean mask": attention(2, 4, 2, 9, 17, mask=dense(2, 1, 9, 17, dtype=torch.bool)),
    "added mask": attention(2, 4, 2, 9, 17, mask=dense(9, 17)),
    "strided": attention(2, 4, 4, 9, 17, q=TensorSpec((2, 4, 9, 64), (2304, 64, 256, 1), torch.float32)),
}


@pytest.mark.parametrize("name", CALLS)
def test_both_compute_the_same_attention(name: str) -> None:
    made = costs._attention(CALLS[name])
    torch.testing.assert_close(made["lowbit"](), made["torch"]())


def test_both_compute_the_same_softmax() -> None:
    made = costs._softmax(SoftmaxCall(dense(3, 5, 7), 1, 1.0, None, False, torch.float32))
    torch.testing.assert_close(made["lowbit"](), made["torch"]())
    made = costs._softmax(SoftmaxCall(dense(3, 5, 7), 1, 0.5, dense(5, 1), True, torch.bfloat16))
    assert made["lowbit"]().dtype is torch.bfloat16  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "call",
    [
        attention(64, 32, 8, 1, 32768),
        attention(8, 32, 8, 8192, 8192, causal=True),
        attention(1, 1, 1, 50_000, 50_000, mask=dense(1, 1, 50_000, 50_000, dtype=torch.bool)),
    ],
)
def test_large_attention_is_timed_in_part(call: AttentionCall) -> None:
    small = costs.smaller_attention(call)
    (b, h, rows, e), (_, g, keys, f) = small.q.sizes, small.v.sizes
    assert b * h * rows * keys * (e + f) <= costs.MAX_WORK
    assert h // g == call.q.sizes[1] // call.k.sizes[1]
    assert (small.q.strides, small.k.sizes[2], small.v.sizes[2]) == (call.q.strides, keys, keys)
    assert small.mask is None or small.mask.sizes == (1, 1, rows, keys)


def test_large_softmax_is_timed_in_part() -> None:
    small = costs.smaller_softmax(SoftmaxCall(dense(64, 32, 1024, 1024), 3, 1.0, dense(64, 1, 1024, 1024), False, torch.float32))
    assert math.prod(small.x.sizes) <= costs.MAX_ELEMENTS
    assert small.x.sizes[3] == 1024
    assert small.mask is not None
    assert small.mask.sizes == (small.x.sizes[0], 1, *small.x.sizes[2:])


@pytest.mark.parametrize(
    "call", [attention(1, 1 << 20, 1, 1, 3), attention(1, 1 << 20, 1, 2, 1), attention(1, 1 << 20, 1, 1, 9, causal=True)]
)
def test_many_heads_of_few_keys(call: AttentionCall) -> None:
    small = costs.smaller_attention(call)
    assert (small.q.sizes[2], small.k.sizes[2]) == (1, 1)


def test_only_a_view_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    rand = torch.rand
    monkeypatch.setattr(torch, "rand", lambda sizes, **options: made.append(math.prod(sizes)) or rand(sizes, **options))
    last = costs._tensor(TensorSpec((8, 1000), (2048 * 1000, 1), torch.bfloat16))
    assert (last.stride(), last.dtype, made.pop()) == ((2048 * 1000, 1), torch.bfloat16, 8000)
    assert last.abs().max() <= 0.5 > last.std() > 0.2
    keep = costs._tensor(TensorSpec((4, 1, 9, 17), (0, 0, 17, 1), torch.bool))
    assert (keep.stride(), keep.dtype, made.pop()) == ((0, 0, 17, 1), torch.bool, 9 * 17)
    assert keep.any()
    assert costs._tensor(TensorSpec((3, 0), (1, 1), torch.float32)).shape == (3, 0)
    assert costs._tensor(TensorSpec((), (), torch.float32)).shape == ()


def test_what_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str] = []
    monkeypatch.setattr(timing, "best", lambda key, candidates, long, clock: keys.append(key) or dict.fromkeys(candidates, 1.0))
    for scale in (0.1, 0.125):
        costs.measured(attention(2, 4, 4, 9, 17, scale=scale), timing.Timer())
        costs.measured(SoftmaxCall(dense(3, 5), 1, scale, None, False, torch.float32, alone=scale == 0.1), timing.Timer())
    assert keys[:2] == keys[2:]
    assert keys[0] != keys[1]


def test_what_is_around_a_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone it is spared the call of Inductor's code; in that it is checked, and a loop beside it is one more."""
    monkeypatch.setattr(timing, "best", lambda key, candidates, long, clock: {"lowbit": 2e-6, "torch": 1e-6})
    softmax = SoftmaxCall(dense(1024), 0, 1.0, None, False, torch.float32)
    among, alone = (costs.measured(dataclasses.replace(softmax, alone=alone), timing.Timer()) for alone in (False, True))
    assert (among.lowbit, among.torch) == (2e-6 + costs.CHECKS, 1e-6)
    assert (alone.lowbit, alone.torch) == (2e-6, 1e-6 + costs.CALL)
    other = costs.measured(CALLS["plain"], timing.Timer())
    assert (other.lowbit, other.torch) == (2e-6, 1e-6)


@pytest.mark.parametrize("loops", [0, 1, 2])
def test_loops_beside_a_softmax_are_timed(loops: int) -> None:
    call = SoftmaxCall(dense(3, 40), 1, 1.0, None, False, torch.float32, loops=loops)
    made: list[str] = []

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made.append(str(func))
            return func(*args, **(kwargs or {}))

    candidates = costs._softmax(call)
    with Names():
        candidates["lowbit"]()
    assert made == ["aten.clone.default"] * loops + ["lowbit.softmax.default"]


def test_small_calls_are_timed_whole() -> None:
    for call in CALLS.values():
        assert costs.smaller_attention(call) == call


def test_leaves_the_random_state_and_needs_no_grad(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    state = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        cost = costs.measured(CALLS["plain"], timing.Timer())
    assert cost.lowbit > 0 < cost.torch
    assert torch.equal(torch.get_rng_state(), state)
