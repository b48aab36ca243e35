"""Timing on a GPU, as far as it can be seen without one: how much a recorded graph reads."""

from types import SimpleNamespace

import pytest
import torch

from lowbit_compiler import gpu_timing, linear_costs
from lowbit_compiler.passes.calls import LinearCall
from lowbit_compiler.passes.site import Plan

L2, FREE = 50 << 20, 1 << 36


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for a GPU; returns the devices that were asked for."""
    asked = []

    def properties(device: str) -> SimpleNamespace:
        asked.append(device)
        return SimpleNamespace(L2_cache_size=L2)

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (FREE, 2 * FREE))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")
    return asked


@pytest.mark.parametrize("size", [1 << 17, 1 << 20, (3 << 20) + 1, 100 << 20, 1 << 30])
def test_a_graph_reads_more_than_the_cache_holds(size: int) -> None:
    copies, calls = gpu_timing.copies(size, "cuda:1"), gpu_timing.calls("cuda:1", size)
    assert copies * size >= 2 * L2
    assert calls >= gpu_timing.RECORDED
    assert calls % copies == 0


def test_launches_bound_what_is_tiny() -> None:
    assert gpu_timing.calls("cuda:1", 64) == gpu_timing.copies(64, "cuda:1") == gpu_timing.MOST_COPIES


def test_what_reads_nothing_in_turn_is_recorded_a_few_times() -> None:
    assert gpu_timing.calls("cuda:1") == gpu_timing.RECORDED
    assert gpu_timing.calls("cpu", 1) == 1


def test_copies_take_half_of_the_free_memory_at_most() -> None:
    assert gpu_timing.that_fit(100, FREE // 20, "cuda:1") == 10
    assert gpu_timing.that_fit(100, FREE // 2000, "cuda:1") == 100
    assert gpu_timing.that_fit(100, 2 * FREE, "cuda:1") == 1  # torch says what is missing


def test_the_planner_reads_as_many_copies(gpu: list[str]) -> None:
    plans = (Plan("int8", "int8", "none"), Plan("int4", "float", "none"))
    call = LinearCall(1, 768, (3072,), torch.bfloat16, torch.bfloat16, False, False, False, plans)
    assert linear_costs._turns(call, "cuda:1") * min(linear_costs.read_by(call)) >= 2 * L2
    assert set(gpu) == {"cuda:1"}


def test_timings_are_kept_under_the_name_of_the_gpu_that_was_timed() -> None:
    assert gpu_timing.key("a call", "cuda:1") == "GPU of cuda:1: a call"
