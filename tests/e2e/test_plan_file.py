"""With a plan file the seconds in it decide, and no clock: lowbit plan writes one, the option takes it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lowbit_compiler
from helpers.compiled import NATIVE, compiled, reports_of
from helpers.forks import lowbit
from lowbit_compiler.cli import plan as command
from lowbit_compiler.errors import OptionError
from lowbit_compiler.report import Report
from lowbit_compiler.runtime import timings
from lowbit_compiler.runtime.timings_file import text

pytestmark = pytest.mark.skipif(not NATIVE, reason="without the native library nothing is timed")
MODEL = """
import torch

def model():
    layers = torch.nn.Sequential(torch.nn.Linear(512, 768), torch.nn.GELU(), torch.nn.Linear(768, 512), torch.nn.Softmax(-1))
    return layers.eval(), (torch.randn(4, 512),)
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Net(torch.nn.Module):
    """Two products and a softmax, each timed as a call of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(512, 768), torch.nn.Linear(768, 512)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.down(torch.relu(self.up(x))), -1)


MODULE, X = Net().eval().requires_grad_(False), torch.randn(4, 512)


@pytest.fixture
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*_: Any, **__: Any) -> None:
        raise AssertionError("timed")

    monkeypatch.setattr(timings, "measure", measure)
    monkeypatch.setattr(timings, "_known", {})


def report_of(plan: Any = "measured", x: torch.Tensor = X) -> Report:
    torch._dynamo.reset()
    with torch.no_grad():
        _, (report,) = reports_of(lambda: compiled(MODULE, plan=plan)(x))
    assert not report.fallback
    return report


def file_where(path: Path, wins: Callable[[str], bool], calls: dict[str, dict[str, float]]) -> Path:
    """Write a plan file in which the first low-bit op of a call, where it ``wins``, takes a tenth of what the others take, and else twice as much."""
    seconds = {}
    for call, known in calls.items():
        ours = next(name for name in known if name not in ("float", "torch"))
        seconds[call] = {name: (1e-4 if wins(call) else 2e-3) if name == ours else 1e-3 for name in known}
    path.write_text(text(seconds))
    return path


@pytest.mark.parametrize("part", ["k=512", "k=768", "Softmax", "nothing"])
def test_the_file_decides(part: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Whatever is in it, and the same each time."""
    calls = report_of().timed
    assert len(calls) == 3
    file = file_where(tmp_path / "plan.json", lambda call: part in call, calls)
    request.getfixturevalue("no_clock")
    reports = [report_of(file), report_of(str(file)), lowbit_compiler.explain(MODULE, X, plan=file)]
    wanted = {"k=512": "up", "k=768": "down", "Softmax": "(function)", "nothing": None}[part]
    for report in reports:
        assert [site.module for site in report.rewritten] == ([] if wanted is None else [wanted])
        assert (report.notes, report.timed) == ([], json.loads(file.read_text())["seconds"])
    assert reports[0].sites == reports[1].sites


def test_what_the_file_lacks_is_timed_and_noted(tmp_path: Path, no_clock: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timings, "measure", lambda candidates, **_: {name: [1.0 + (name == "float")] for name in candidates})
    calls = {call: seconds for call, seconds in report_of().timed.items() if "k=512" not in call}
    report = report_of(file_where(tmp_path / "plan.json", lambda _: False, calls))
    assert [site.module for site in report.rewritten] == ["up"]
    assert report.notes == [f"1 of 3 timed calls are not in {tmp_path / 'plan.json'}, and were timed here"]
    longer = report_of(tmp_path / "plan.json", torch.randn(9, 512))
    assert longer.notes[0].startswith("3 of 3 timed calls are not in ")


def test_a_file_of_another_machine_decides_too(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    file = file_where(tmp_path / "plan.json", lambda _: True, report_of().timed)
    stored = json.loads(file.read_text())
    stored["machine"] |= {"isa": ["scalar"], "threads": 96}
    file.write_text(json.dumps(stored))
    request.getfixturevalue("no_clock")
    report = report_of(file)
    assert len(report.rewritten) == 3
    (note,) = report.notes
    assert note.startswith(f"the times in {file} were measured on another machine: isa scalar, here scalar ")
    assert "; threads 96, here " in note


BAD = {"missing.json": None, "damaged.json": "{", "foreign.json": '{"name": "lowbit", "version": 3}'}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_error_before_anything_is_compiled(name: str, tmp_path: Path, no_clock: None) -> None:
    file, content = tmp_path / name, BAD[name]
    if content is not None:
        file.write_text(content)
    message = rf"option 'plan': cannot use '.*{name}' \(.+\); give a file that 'lowbit plan' wrote"

    def run() -> None:
        torch._dynamo.reset()
        with torch.no_grad(), pytest.raises(Exception, match=message):
            compiled(MODULE, plan=str(file))(X)

    assert reports_of(run)[1] == []
    with pytest.raises(OptionError, match=message):
        lowbit_compiler.explain(MODULE, X, plan=file)


@pytest.mark.parametrize("free", [True, False])
def test_a_busy_machine_is_noted(free: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "quiet", lambda: free)
    stages: list[str] = []
    report = command.plan(MODULE, (X,), tmp_path / "plan.json", recipe="int8", ignore=("down",), progress=stages.append)
    assert (command.BUSY in report.notes) is not free
    assert [site.reason for site in report.sites if site.module == "down"] == ["filtered by the user"]
    assert json.loads((tmp_path / "plan.json").read_text())["seconds"] == report.timed
    assert len(report.timed) == 2
    assert len(stages) == 2


def test_decisions_that_are_alike_are_one_row() -> None:
    sites = report_of("always").sites
    assert command.decisions([*sites, *sites]).row_count == command.decisions(sites).row_count == 3


def test_the_commands(tmp_path: Path) -> None:
    """One writes a file, the others take it; mistakes are one line, and nothing is written."""
    spec, file = tmp_path / "my_model.py", tmp_path / "new" / "plan.json"
    spec.write_text(MODEL)
    made = lowbit("plan", f"{spec}:model", "--out", str(file), "--recipe", "int8-vector")
    assert made.returncode == 0, made.stderr
    assert f"{file}  3 calls with the seconds of each candidate" in made.stdout
    assert "float" in made.stdout
    stored = json.loads(file.read_text())
    assert [sorted(seconds) for seconds in stored["seconds"].values()].count(["float", "linear_fs8", "linear_s8s8"]) == 2

    for seconds in stored["seconds"].values():
        seconds.update({name: 1e-3 if name in ("float", "torch") else 1e-6 for name in seconds})
    file.write_text(json.dumps(stored))
    shown = lowbit("explain", f"{spec}:model", "--plan", str(file), "--recipe", "int8-vector", "--json")
    assert shown.returncode == 0, shown.stderr
    report = json.loads(shown.stdout)
    assert [site["decision"] for site in report["sites"]] == ["rewritten"] * 3
    assert report["timed"] == stored["seconds"]

    before = file.read_text()
    for arguments in (
        ("plan", f"{spec}:model", "--out", str(tmp_path / "plan.txt")),
        ("plan", f"{spec}:model", "--out", str(file / "plan.json")),
        ("plan", f"{spec}:model", "--out", str(file), "--recipe", "int9"),
        ("plan", f"{spec}:missing", "--out", str(file)),
        ("explain", f"{spec}:model", "--plan", str(tmp_path / "missing.json")),
    ):
        failed = lowbit(*arguments)
        assert failed.returncode == 2
        assert failed.stderr.startswith("lowbit: ")
        assert len(failed.stderr.strip().splitlines()) == 1
    assert file.read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in ("cache", "__pycache__")) == ["my_model.py", "new"]
