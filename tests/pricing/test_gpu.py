"""Timing on a GPU, as far as it can be seen without one: how much a recorded graph reads."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from helpers import plain
from lowbit_compiler.passes.calls import LinearCall
from lowbit_compiler.pricing import gpu as gpu_timing
from lowbit_compiler.pricing import linear as linear_costs

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
    plans = (plain.plan("int8", "int8", "none"), plain.plan("int4", "float", "none"))
    call = LinearCall(1, 768, (3072,), torch.bfloat16, torch.bfloat16, False, False, False, plans)
    assert linear_costs._turns(call, "cuda:1") * min(linear_costs.read_by(call)) >= 2 * L2
    assert set(gpu) == {"cuda:1"}


def test_timings_are_kept_under_the_name_of_the_gpu_that_was_timed() -> None:
    assert gpu_timing.key("a call", "cuda:1") == "GPU of cuda:1: a call"


@pytest.mark.parametrize("fails", [False, True])
def test_a_graph_is_recorded_on_a_stream_of_its_device_and_the_current_one_is_put_back(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """A recorded stream of another GPU, or left current, would send this thread's later work there."""
    current, ran = ["the caller's"], []

    class Recording:
        """As torch.cuda.graph: it makes its stream the current one, and leaves it so where the recording cannot be ended."""

        def __init__(self, graph: object, stream: str | None = None, **modes: str) -> None:
            current.append(stream or "of the first GPU")

        def __enter__(self) -> None:
            pass

        def __exit__(self, *raised: object) -> None:
            if fails:
                raise RuntimeError("not recorded")
            current.pop()

    @contextmanager
    def made_current(stream: str) -> Iterator[None]:
        before = len(current)
        current.append(stream)
        try:
            yield
        finally:
            del current[before:]

    fakes = {
        "Stream": lambda: Stream("new"),
        "current_stream": lambda: current[-1],
        "stream": made_current,
        "synchronize": lambda *device: None,
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: ran.append("replayed")),
        "graph": Recording,
        "device": nullcontext,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    call = {"op": lambda: ran.append(current[-1])}
    if fails:
        with pytest.raises(RuntimeError, match="not recorded"):
            gpu_timing.recorded(call, "cuda:1")
    else:
        gpu_timing.recorded(call, "cuda:1")["op"]()
        assert ran.pop() == "replayed"
    assert ran == ["new"] * (gpu_timing.WARM_UP + gpu_timing.RECORDED)
    assert current == ["the caller's"]


class Stream(str):
    """A stream by its name."""

    def wait_stream(self, other: str) -> None:
        assert other == "the caller's"
