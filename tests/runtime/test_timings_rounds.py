"""How candidates are timed: in turns, for as many rounds as their length asks for, on the threads that a busy machine leaves."""

from collections.abc import Callable

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
    calls, clock = stub({"a": 0.002, "b": 0.003}, log)
    timings.measure(calls, clock)
    assert log == ["a", "b"] * (1 + timings.ROUNDS[0])


def test_interleaved() -> None:
    log: list[str] = []
    calls, clock = stub({"a": 0.01, "b": 0.015}, log)
    times = timings.measure(calls, clock)
    assert times["a"] == pytest.approx([0.01] * len(times["a"]))
    assert len(log) in (2 * (1 + 12), 2 * (1 + 13))  # 12 rounds of 25 ms reach LONG


def test_the_hopeless_is_measured_no_further() -> None:
    log: list[str] = []
    calls, clock = stub({"a": 0.001, "b": 0.009}, log)
    timings.measure(calls, clock)
    assert log == ["a", "b"] * (1 + timings.FEW)


def test_long_calls_are_few() -> None:
    log: list[str] = []
    calls, clock = stub({"a": 1.0, "b": 1.1}, log)
    timings.measure(calls, clock)
    assert log == ["a", "b"] * (1 + timings.FEW)


def test_short_calls_stay_within_budget() -> None:
    log: list[str] = []
    calls, clock = stub({"a": 1e-5, "b": 1.1e-5}, log)
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
    calls, clock = stub({"a": 0.01, "b": 0.015}, log)
    timings.measure(calls, clock, long=0.1)
    assert len(log) in (2 * (1 + 4), 2 * (1 + 5))
