"""Calls that a plan file gives are not timed; the others are, and the report says how many."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lowbit_compiler.pricing import gpu as gpu_timing
from lowbit_compiler.pricing import timing
from lowbit_compiler.pricing.timing import Timer
from lowbit_compiler.runtime.timings_file import Timings, machine

PATH = Path("plan.json")
GIVEN = {"call": {"float": 2.0, "ours": 1.0, "more accurate": 3.0}}


def timer(device: str = "cpu", **changes: object) -> Timer:
    return Timer(device, Timings(PATH, machine() | changes, GIVEN))


def never() -> dict[str, Callable[[], object]]:
    raise AssertionError("made to be timed")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the keys that are measured from now on; each candidate takes 5 seconds."""
    keys: list[str] = []
    monkeypatch.setattr(timing, "best", lambda key, candidates, long, clock: keys.append(key) or dict.fromkeys(candidates, 5.0))
    return keys


def test_what_is_given_is_not_timed(measured: list[str]) -> None:
    of_file = timer()
    assert of_file.seconds("call", ("float", "ours"), never) == {"float": 2.0, "ours": 1.0}
    assert of_file.asked == {"call": {"float": 2.0, "ours": 1.0}}
    assert (measured, of_file.notes()) == ([], [])


def test_what_is_lacking_is_timed_and_counted(measured: list[str]) -> None:
    of_file = timer()
    for call, names in (("call", ("float",)), ("other", ("float",)), ("other", ("float",)), ("call", ("float", "new"))):
        of_file.seconds(call, names, never)
    assert measured == ["other", "other", "call"]
    assert of_file.asked == {"other": {"float": 5.0}, "call": {"float": 5.0, "new": 5.0}}
    assert of_file.notes() == ["2 of 2 timed calls are not in plan.json, and were timed here"]


def test_another_machine_is_noted() -> None:
    of_file = timer(threads=77)
    assert of_file.notes() == []  # nothing was asked
    of_file.seconds("call", ("float",), never)
    (note,) = of_file.notes()
    assert note == f"the times in plan.json were measured on another machine: threads 77, here {torch.get_num_threads()}"


def test_without_a_file_there_are_no_notes(measured: list[str]) -> None:
    alone = Timer()
    assert alone.seconds("call", ("float",), never) == {"float": 5.0}
    assert (alone.asked, alone.notes(), measured) == ({"call": {"float": 5.0}}, [], ["call"])


def test_times_of_a_gpu_are_those_of_its_name(monkeypatch: pytest.MonkeyPatch, measured: list[str]) -> None:
    """A file of another GPU has other calls; one call of those that were recorded is what is returned."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "this GPU")
    given = Timings(PATH, machine(), {"this GPU: call": {"ours": 4.0}, "another GPU: other": {"ours": 4.0}})
    of_file = Timer("cuda", given)
    assert of_file.seconds("call", ("ours",), never) == {"ours": 4.0 / gpu_timing.RECORDED}
    of_file.seconds("other", ("ours",), never)
    assert measured == ["this GPU: other"]


def test_memory_is_taken_again() -> None:
    alone = Timer()
    first = alone.memory(100)
    assert alone.memory(60).data_ptr() == first.data_ptr()
    assert (alone.memory(60).numel(), alone.memory(200).numel()) == (60, 200)
    assert alone.memory(1).device.type == "cpu"
