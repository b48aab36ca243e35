"""What is timed for a linear is the products of its shapes, each on weights that no call before has just read, and stays small."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import plain
from lowbit_compiler.passes.calls import LinearCall
from lowbit_compiler.pricing import linear as linear_costs
from lowbit_compiler.pricing import timing
from lowbit_compiler.pricing.timing import Timer
from lowbit_compiler.runtime.formats import Groups
from lowbit_compiler.runtime.timings import ROUNDS
from lowbit_compiler.runtime.treatments import Columns

PLANS = tuple(plain.plan("int8", "int8", treatment) for treatment in ("none", "rotation", "columns", "rows"))
PLANS += (plain.plan("int8", "float", "none"), plain.plan("int4", "float", "none"))


def linear(rows: int = 5, k: int = 96, widths: tuple[int, ...] = (32, 48), **changes: Any) -> LinearCall:
    given = {
        "dtype": torch.float32,
        "stored": changes.get("dtype", torch.float32),
        "bias": False,
        "column_major": False,
        "transposed": False,
        "plans": PLANS,
        **changes,
    }
    return LinearCall(rows, k, widths, **given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["", "bias", "column_major", "transposed"])
def test_each_candidate_is_one_call(layout: str, dtype: torch.dtype) -> None:
    timer = Timer()
    timer.memory(1 << 26).fill_(-1)  # what another call left there: NaN in every float type
    made = linear_costs.candidates(linear(dtype=dtype, **({layout: True} if layout else {})), timer)
    assert list(made) == ["float", *(plan.op for plan in PLANS)]
    for name, run in made.items():
        products: Any = run()
        parts = products if name == "float" else [products]
        assert sum(part.shape[1] for part in parts) == 80
        assert {(part.shape[0], part.dtype) for part in parts} == {(5, dtype)}
        assert all(part.isfinite().all() and part.any() for part in parts)


def test_weights_of_another_dtype_are_cast_at_each_call() -> None:
    made = linear_costs.candidates(linear(dtype=torch.bfloat16, stored=torch.float32), Timer())
    products: Any = made["float"]()
    assert {part.dtype for part in products} == {torch.bfloat16}


def test_copies_do_not_overlap() -> None:
    copies = linear_costs._copies([3 << 20, 1 << 20, 7], 5, Timer().memory)
    parts = sorted((part.data_ptr(), part.numel()) for copy in copies for part in copy)
    assert [size for _, size in parts] == [3 << 20, 1 << 20, 7] * 5
    assert all(start + size <= following for (start, size), (following, _) in itertools.pairwise(parts))


def test_weights_come_from_memory() -> None:
    call = linear(k=1024, widths=(512, 512))
    assert linear_costs._turns(call, "cpu") * sum(linear_costs.read_by(call)) >= linear_costs.RING
    assert linear_costs._turns(linear(k=4096, widths=(1 << 14,)), "cpu") == 2
    assert linear_costs._turns(linear(k=16, widths=(16,)), "cpu") == ROUNDS[1] + 1  # more would never be read


@pytest.mark.parametrize("widths", [(49152,), (14336, 14336), (1 << 20, 16)])
@pytest.mark.parametrize(("rows", "k"), [(1, 576), (64, 4096), (8192, 4096), (256, 576)])
def test_a_large_call_is_timed_in_part(rows: int, k: int, widths: tuple[int, ...]) -> None:
    small = linear_costs.smaller_linear(linear(rows, k, widths))
    n = sum(small.widths)
    assert small.rows * k * n <= linear_costs.MAX_WORK
    assert k * n * 4 <= linear_costs.MAX_WEIGHT
    assert min(rows, linear_costs.FEW_ROWS) <= small.rows <= linear_costs.MAX_ROWS
    assert min(small.widths) >= 16
    assert small.rows == min(rows, 256) or k * n > (1 << 20)  # as many rows as are worth timing, unless K is very deep


def test_a_small_call_is_timed_whole() -> None:
    call = linear(64, 1024, (1024, 512))
    assert linear_costs.smaller_linear(call) == call


def test_times_are_those_of_the_whole_call(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str] = []
    monkeypatch.setattr(timing, "best", lambda key, names, long, clock: keys.append(key) or dict.fromkeys(names, 1e-3))
    few, many = (linear_costs.measured_linear(linear(rows), Timer()) for rows in (256, 1024))
    assert few["float"] == 1e-3
    assert many["float"] == pytest.approx(4e-3)
    assert keys[0] == keys[1]


def test_calls_are_told_apart_by_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In words that a person can read: no format is spelled out, and all that an op is called with is there."""
    plans = [*PLANS, replace(PLANS[2], treatment=Columns(threshold=5.0)), replace(PLANS[5], w=replace(PLANS[5].w, scale=Groups(32)))]
    keys: list[str] = []
    monkeypatch.setattr(timing, "best", lambda key, names, long, clock: keys.append(key) or dict.fromkeys(names, 1e-3))
    for plan in (*plans, *plans):
        linear_costs.measured_linear(linear(plans=(plan,)), Timer())
    assert keys[: len(plans)] == keys[len(plans) :]
    assert len(set(keys)) == len(plans)
    assert keys[2].endswith(" by linear_s8s8_columns(6.0)")
    assert "Operand" not in "".join(keys)


def test_leaves_the_random_state_and_needs_no_grad(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    state = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        seconds = linear_costs.measured_linear(linear(plans=PLANS[:1]), Timer())
    assert set(seconds) == {"float", "linear_s8s8"}
    assert all(time > 0 for time in seconds.values())
    assert torch.equal(torch.get_rng_state(), state)
