"""The profile gives every rewritten site its time inside the compiled model, and a floor below it."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from helpers.compiled import NATIVE
from lowbit_compiler.dump.files import attach, folders, read
from lowbit_compiler.errors import DebugError, OptionError
from lowbit_compiler.profiling.calls import Call, Step
from lowbit_compiler.profiling.floors import Work, copy_seconds, floor, peak, read_seconds
from lowbit_compiler.profiling.profile import _attributed, _Op, profile
from lowbit_compiler.report import Report


class Shared(nn.Module):
    """One layer used twice, three siblings that are merged, a softmax, and a graph break."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.last = nn.Linear(128, 128), nn.Linear(128, 2048)
        self.siblings = nn.ModuleList(nn.Linear(128, width) for width in (64, 128, 64))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.twice(torch.relu(self.twice(x))))
        torch._dynamo.graph_break()
        x = torch.cat([layer(x) for layer in self.siblings[::2]], -1) + self.siblings[1](x)
        return self.last(x).softmax(-1)


@pytest.mark.parametrize("mode", [None, pytest.param("reduce-overhead", marks=pytest.mark.model)])
def test_every_site_has_its_time(mode: str | None) -> None:
    result = profile(Shared().eval(), torch.randn(16, 128), plan="always", mode=mode, rounds=3)
    assert all(note.startswith(("recording takes", "the cores were not free")) for note in result.notes)
    report = result.report
    assert report.graphs == 2
    assert len(report.rewritten) == 6 + NATIVE
    for site in report.rewritten:
        assert site.measured is not None, site
        assert site.measured.seconds > 0  # type: ignore[operator]
        assert site.measured.floor > 0  # type: ignore[operator]
    assert len(result.sites) == 3 + NATIVE  # of the six linears, three are one product, and two one chain
    total = sum(site.measured.seconds for site in report.rewritten)  # type: ignore[misc, union-attr]
    assert total == pytest.approx(sum(row.seconds for row in result.sites))
    assert 0 < total < result.profiled_step
    assert any("cpp_fused" in row.name for row in result.rest)
    siblings = [site.measured.seconds for site in report.rewritten if site.module.startswith("siblings")]  # type: ignore[union-attr]
    assert max(siblings) == pytest.approx(2 * min(siblings))  # 128 outputs and 64
    plain: dict[str, Any] = json.loads(result.to_json())
    assert plain["report"]["sites"][0]["measured"]["seconds"] == report.sites[0].measured.seconds  # type: ignore[union-attr]
    assert [row["name"] for row in plain["sites"]] == [row.name for row in result.sites]


def _ops(*keys: tuple[str, int]) -> list[_Op]:
    return [_Op((name, address, (4, 8)), (i,), (1.0,), Work(1, 1, 1, "int8")) for i, (name, address) in enumerate(keys)]


def _step(*calls: tuple[str, int, float]) -> Step:
    return Step(1.0, tuple(Call(name, seconds, (name, address, (4, 8))) for name, address, seconds in calls))


def test_calls_are_told_apart_by_weight_then_by_order() -> None:
    ops = _ops(("a", 1), ("a", 2), ("s", 0), ("s", 0))
    recorded = [_step(("s", 0, 0.1), ("a", 2, 0.5), ("a", 1, 0.3), ("s", 0, 0.2))]  # Inductor took the second product first
    notes: list[str] = []
    assert [(op.rows[0], *found) for op, *found in _attributed(ops, recorded, notes)] == [
        (0, 0.3, 1),
        (1, 0.5, 1),
        (2, 0.1, 1),
        (3, 0.2, 1),
    ]
    assert not notes


def test_a_graph_that_runs_twice_in_a_step() -> None:
    recorded = [_step(("s", 0, 1.0), ("s", 0, 2.0), ("s", 0, 3.0), ("s", 0, 5.0))]
    ops = _ops(("s", 0), ("s", 0))
    assert [found for _, *found in _attributed(ops, recorded, [])] == [[4.0, 2], [7.0, 2]]
    notes: list[str] = []
    assert _attributed([ops[0], replace(ops[1], graph=1)], recorded, notes) == []  # which of two graphs ran first?
    assert notes == ["2 sites of s have 4 calls in a step, and get no times"]


class Block(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(super().forward(x))


class Looped(nn.Module):
    """A graph of one linear that runs five times in a step: Dynamo leaves the loop alone; it writes to a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = Block(64, 64)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        for _ in range(5):
            x = self.linear(x)
            torch._dynamo.graph_break()
        return x


def test_a_site_that_runs_five_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time and its floor are those of all calls. Buffers are as before."""
    model = Looped().eval()
    monkeypatch.setattr("lowbit_compiler.profiling.profile.floor", lambda work, weights: 1.0)
    result = profile(model, torch.randn(8, 64), plan="always", rounds=2, remainder="eager")
    assert [(row.calls, row.floor) for row in result.sites] == [(5, 5.0)]
    assert model.calls == 0


def test_without_sites() -> None:
    result = profile(nn.Conv2d(3, 4, 3).eval(), torch.randn(1, 3, 8, 8), rounds=1, remainder="eager")
    console = Console(file=io.StringIO(), width=180)
    console.print(result)
    assert "no time of a rewritten site: convolution: " in console.file.getvalue()  # type: ignore[attr-defined]


def test_dead_graphs_get_no_times() -> None:
    """A number that changes once makes Dynamo trace again, and the first graph is not run any more."""

    class Counting(nn.Linear):
        count = 0

        def forward(self, x: Tensor) -> Tensor:
            self.count = min(self.count + 1, 2)
            return super().forward(x) * self.count

    result = profile(Counting(64, 64).eval(), torch.randn(8, 64), plan="always", rounds=2, remainder="eager")
    assert [site.measured is None for site in result.report.sites] == [True, *[False] * len(result.sites)], result
    assert any(note.startswith("graphs that were compiled and are not run any more: 1;") for note in result.notes)


def test_a_model_that_fails_in_float() -> None:
    with pytest.raises(DebugError, match=r"^the float model fails by itself, without lowbit: RuntimeError: mat1 and mat2"):
        profile(nn.Linear(3, 4), torch.randn(2, 64))


def test_unknown_calls_are_said() -> None:
    notes: list[str] = []
    assert _attributed(_ops(("s", 0), ("s", 0)), [_step(("s", 0, 1.0))], notes) == []
    assert notes == ["2 sites of s have 1 calls in a step, and get no times"]


def test_a_dump_shows_the_times(tmp_path: Path) -> None:
    result = profile(Shared().eval(), torch.randn(16, 128), plan="always", rounds=1, remainder="eager", dump=str(tmp_path))
    attach(folders(tmp_path), result.report)
    shown = [site.measured for folder in folders(tmp_path) for site in read(folder).sites]
    assert shown == [site.measured for site in result.report.sites]
    assert any(measured is not None and measured.seconds for measured in shown)


def test_gradients_leave_nothing_to_time() -> None:
    """Inference is timed whatever the caller's state is."""
    result = profile(nn.Linear(64, 64), torch.randn(8, 64), plan="always", rounds=1)
    assert isinstance(result.report, Report)
    assert len(result.sites) == 1


def test_bad_input() -> None:
    with pytest.raises(OptionError, match="rounds takes a number >= 1, got 0"):
        profile(nn.Linear(64, 64), torch.randn(8, 64), rounds=0)
    with pytest.raises(OptionError, match="mode takes one of"):
        profile(nn.Linear(64, 64), torch.randn(8, 64), mode="fast")


def test_floor_is_the_largest_need(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "lowbit_compiler.profiling.floors"
    monkeypatch.setattr(f"{module}.read_seconds", lambda size, device: size / 10)
    monkeypatch.setattr(f"{module}.copy_seconds", lambda size, device: size / 20)
    monkeypatch.setattr(f"{module}.peak", lambda format, device: {"int8": 100.0, "float32": 50.0}[format])
    assert floor(Work(30, 0, 200, "int8"), 60) == pytest.approx(3.0)  # half of the weights, at 10 bytes a second
    assert floor(Work(30, 100, 200, "int8"), 60) == pytest.approx(5.0)
    assert floor(Work(30, 100, 600, "float32"), 60) == pytest.approx(12.0)


def test_speeds_are_of_the_size_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed runs; a clock that says a microsecond for each call stands in for time."""

    def a_microsecond(key: str, calls: dict[str, Callable[[], object]], long: float, clock: object) -> dict[str, float]:
        for call in calls.values():
            call()
        return dict.fromkeys(calls, 1e-6)

    monkeypatch.setattr("lowbit_compiler.pricing.timing.best", a_microsecond)
    assert 0 < copy_seconds(100) < copy_seconds(5000) == 1e-6
    assert 0 < read_seconds(1000) == pytest.approx(read_seconds(2000) / 2)
    assert peak("float32") == peak("int8") > 0
