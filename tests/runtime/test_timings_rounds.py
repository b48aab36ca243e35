"""How candidates are timed: in turns, for as many rounds as their length asks for, on the threads that a busy machine leaves."""

import math
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from helpers.candidates import candidates
from lowbit_compiler.runtime import timings

pytestmark = pytest.mark.usefixtures("cache")


def stub(durations: dict[str, float], log: list[str]) -> tuple[dict[str, Callable[[], object]], Callable[[], float]]:
    """Candidates that take the given time on a clock of their own."""
    now = [0.0]

    def run(name: str) -> None:
        log.append(name)
        now[0] += durations[name]

    return {name: lambda name=name: run(name) for name in durations}, lambda: now[0]  # type: ignore[misc]


@pytest.mark.parametrize(("seconds", "quiet"), [(3e-5, True), (4e-3, False)])
def test_waiting_threads_are_noticed(monkeypatch: pytest.MonkeyPatch, seconds: float, quiet: bool) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(timings, "measure", lambda candidates, **_: {name: [seconds, 2 * seconds] for name in candidates})
    assert timings.quiet() is quiet


def test_enough_rounds() -> None:
    log: list[str] = []
    calls, clock = stub({"a": 0.002, "b": 0.0021}, log)
    timings.measure(calls, clock)
    assert log == ["a", "b"] * (1 + timings.ROUNDS[0])


def test_interleaved() -> None:
    log: list[str] = []
    calls, clock = stub({"a": 0.012, "b": 0.0125}, log)
    times = timings.measure(calls, clock)
    assert times["a"] == pytest.approx([0.012] * len(times["a"]))
    assert len(log) in (2 * (1 + 12), 2 * (1 + 13))  # 12 rounds of 24.5 ms nearly reach LONG


@pytest.mark.parametrize(("slower", "rounds"), [(9.0, 4), (1.38, 4), (1.35, 5), (1.26, 6), (1.16, 10), (1.05, 15)])
def test_what_is_clearly_slower_is_measured_no_further(slower: float, rounds: int) -> None:
    """After n rounds, what is slower by 1.5 / n; where nothing else is left, that is the end."""
    log: list[str] = []
    calls, clock = stub({"a": 0.01, "b": 0.01 * slower}, log)
    timings.measure(calls, clock, long=9.0)
    assert log == ["a", "b"] * (1 + rounds)


def test_what_is_left_is_measured_on() -> None:
    log: list[str] = []
    calls, clock = stub({"a": 0.001, "b": 0.002, "c": 0.00101}, log)
    times = timings.measure(calls, clock)
    assert len(times["b"]) == timings.FEW
    assert len(times["a"]) == len(times["c"]) > timings.ROUNDS[0]


def test_slower_within_the_spread_of_the_fastest_is_not_clear() -> None:
    """The fastest takes twice as long in two rounds of three: what takes 1.8 times its best is not out, and is measured to the end."""
    now, turn = [0.0], [0]

    def uneven() -> None:
        turn[0] += 1
        now[0] += 0.01 if turn[0] % 3 == 0 else 0.02

    def even() -> None:
        now[0] += 0.018

    times = timings.measure({"uneven": uneven, "even": even}, lambda: now[0], long=9.0)
    assert min(times["even"]) > (1 + timings.SLOWER / timings.FEW) * min(times["uneven"])
    assert len(times["even"]) == timings.ROUNDS[0]


@pytest.mark.parametrize(("threads", "alone"), [(1, True), (2, False)])
def test_who_works_alone_has_a_clock_of_its_own(monkeypatch: pytest.MonkeyPatch, threads: int, alone: bool) -> None:
    """It stands still while others have the core: what waits, as a call that another process holds up, takes no time."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    seconds = timings.best("key", {"waits": lambda: time.sleep(0.02)})["waits"]
    assert (seconds < 0.02) == alone
    assert timings.best("another", {"waits": lambda: time.sleep(0.02)}, clock=time.perf_counter)["waits"] >= 0.02


def test_a_coarse_clock_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert timings._clock() is time.thread_time
    monkeypatch.setattr(time, "get_clock_info", lambda name: SimpleNamespace(resolution=0.0156))
    assert timings._clock() is time.perf_counter


def test_all_may_be_measured_to_the_end() -> None:
    log: list[str] = []
    calls, clock = stub({"a": 0.002, "b": 0.009}, log)
    timings.measure(calls, clock, slower=math.inf)
    assert log == ["a", "b"] * (1 + timings.ROUNDS[0])


def test_long_calls_are_few() -> None:
    log: list[str] = []
    calls, clock = stub({"a": 1.0, "b": 1.1}, log)
    timings.measure(calls, clock)
    assert log == ["a", "b"] * (1 + timings.FEW)


def test_short_calls_stay_within_budget() -> None:
    log: list[str] = []
    calls, clock = stub({"a": 1e-5, "b": 1.01e-5}, log)
    timings.measure(calls, clock)
    assert len(log) == 2 * (1 + timings.ROUNDS[1])


@pytest.mark.parametrize(
    ("seconds", "quiet", "kept"), [([3.0, 1.0, 1.2], True, True), ([3.0, 1.0, 2.5], True, False), ([3.0, 1.0, 1.2], False, False)]
)
def test_what_a_busy_machine_measures_is_not_kept(monkeypatch: pytest.MonkeyPatch, seconds: list[float], quiet: bool, kept: bool) -> None:
    monkeypatch.setattr(timings, "NOISE", 2.0)
    monkeypatch.setattr(timings, "quiet", lambda: quiet)
    monkeypatch.setattr(timings, "measure", lambda candidates, **_: dict.fromkeys(candidates, seconds))
    assert timings.best("key", dict(candidates())) == {"ours": 1.0, "theirs": 1.0}
    assert timings.cache_file().exists() == kept


@pytest.mark.parametrize("quiet", [True, False])
def test_a_busy_machine_is_measured_on_one_thread(monkeypatch: pytest.MonkeyPatch, quiet: bool) -> None:
    monkeypatch.setattr(timings, "quiet", lambda: quiet)
    before, seen = torch.get_num_threads(), set()
    torch.set_num_threads(2)
    try:
        timings.best("key", {"a": lambda: seen.add(torch.get_num_threads())})
        assert (seen, torch.get_num_threads()) == ({2 if quiet else 1}, 2)
    finally:
        torch.set_num_threads(before)


def test_less_time_may_be_asked_for() -> None:
    log: list[str] = []
    calls, clock = stub({"a": 0.012, "b": 0.0125}, log)
    timings.measure(calls, clock, long=0.1)
    assert log == ["a", "b"] * (1 + 5)  # five rounds of 24.5 ms
