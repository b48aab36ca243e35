"""What `make gpu-check` does first, when it stops, and what it does not do again; a clock that only the steps advance stands in for time."""

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import gpu_bench
import gpu_check
import gpu_steps
from gpu_steps import Log, Step

from lowbit_compiler.recipes import WITH_KERNELS


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def step(self, name, lasts, table="", expected=1.0, result=None, **rest):
        def run():
            self.now += lasts
            return {"seconds": {}} if table else result or []

        return Step(name, run, table, expected=expected, **rest)


@pytest.fixture
def clock():
    return Clock()


def test_what_would_end_too_late_is_not_begun_and_named(clock, tmp_path):
    log = Log({}, [tmp_path / "results.json"])
    steps = [
        clock.step("first", 5),
        clock.step("large", 1, expected=7),  # as far as is known before
        clock.step("a", 4, "rows"),
        clock.step("b", 4, "rows"),  # 1 s left, and another row took 4
        clock.step("last", 1),
    ]
    assert gpu_steps.run(steps, log, 10, clock) == ["large", "b"]
    assert clock.now == 110
    assert list(log.content["checks"]) == ["first", "last"]
    assert [row["name"] for row in log.content["rows"]] == ["a"]


def test_checks_of_a_group_last_as_long_as_the_longest(clock):
    steps = [clock.step(name, 4, group="compile") for name in "abc"]
    assert gpu_steps.run(steps, Log({}, []), 10, clock) == ["c"]


def test_each_result_is_in_every_file_before_the_next_step_begins(clock, tmp_path):
    files = [tmp_path / "bench" / "results.json", tmp_path / "out" / "results.json"]
    seen = []

    def look():
        seen.extend(json.loads(file.read_text()) for file in files)
        return []

    log = Log({"device": "some"}, files)
    gpu_steps.run([clock.step("wrong", 2, result=["not so"]), clock.step("a", 1, "rows"), Step("look", look)], log, 100, clock)
    assert seen == 2 * [
        {"device": "some", "checks": {"wrong": {"wrong": ["not so"], "seconds": 2.0}}, "rows": [{"name": "a", "seconds": {}}]}
    ]
    assert log.failed == ["wrong"]


def test_a_step_that_raises_fails_a_check_and_leaves_out_a_row(clock, capsys):
    def raises():
        raise RuntimeError("no room")

    log = Log({}, [])
    left_out = gpu_steps.run([Step("check", raises), Step("row", raises, "rows"), clock.step("next", 1)], log, 100, clock)
    assert left_out == []
    assert log.failed == ["check"]
    assert "rows" not in log.content
    assert "row left out: RuntimeError: no room" in capsys.readouterr().out
    assert "next" in log.content["checks"]


def test_what_an_earlier_run_has_is_not_done_again(clock, tmp_path):
    file, about = tmp_path / "results.json", {"device": "some", "torch": "2.13", "sources": "abc", "date": "today"}
    steps = [clock.step("check", 4), clock.step("a", 4, "rows"), clock.step("b", 4, "rows"), clock.step("check 2", 4, expected=4)]
    assert gpu_steps.run(steps, Log(dict(about), [file]), 9, clock) == ["b", "check 2"]
    log = Log(gpu_steps.resumed(file, about | {"date": "tomorrow"}), [file])
    before = clock.now
    assert gpu_steps.run(steps, log, 9, clock) == []
    assert clock.now - before == 8
    assert [row["name"] for row in log.content["rows"]] == ["a", "b"]
    assert list(log.content["checks"]) == ["check", "check 2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"device": "some", "torch": "2.12", "sources": "abc"}', "torch 2.12 is not 2.13; leave out --resume"),
        ("[1]", "no attribute"),
        ("{", "Expecting property name"),
        (None, "No such file"),
    ],
)
def test_only_results_of_the_same_are_resumed(tmp_path, text, said):
    file = tmp_path / "results.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SystemExit, match=said):
        gpu_steps.resumed(file, {"device": "some", "torch": "2.13", "sources": "abc"})


def test_the_most_telling_comes_first_and_peers_last(monkeypatch):
    monkeypatch.setattr(gpu_bench, "installed_peers", lambda: ["torchao"])
    steps = gpu_check.order("cuda")
    names = [step.name for step in steps]
    assert names[:4] == ["ops_agree", "graphs_record", "streams_are_respected", "devices_are_respected"]
    assert names[4:9] == [*(f"{rows} x 4096 x 16384" for rows in (1, 16, 512, 4096)), "llama, int8, reduce-overhead"]
    assert sum(step.group == "compile" for step in steps) == 4 * len(WITH_KERNELS)
    own = [step for step in steps if step.table != "peers"]
    assert [step.table for step in steps[len(own) :]] == 32 * ["peers"]
    assert len({(step.table, step.name) for step in steps}) == len(steps)
    assert sum(step.expected for step in steps[:9]) < 150
    monkeypatch.undo()
    monkeypatch.setattr(gpu_bench.importlib.util, "find_spec", lambda name: None)
    assert [step.name for step in gpu_check.order("cuda")] == [step.name for step in own if step.name != "tests/cuda"]
    assert [step.name for step in gpu_check.order("cuda", ops=True)] == ["ops_agree"]


def test_a_dry_run_without_a_budget_does_nothing_and_says_so(monkeypatch, tmp_path, capsys):
    """All of the script but its steps, on the CPU."""
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(gpu_check, "prepare", lambda device: None)
    assert gpu_check.main("cpu", 0.0) == 0
    said = capsys.readouterr().out
    assert f"no time for {len(gpu_check.order('cpu'))} of all steps: ops_agree; 1 x 768 x 3072;" in said
    assert said.endswith("gpu-check: 0 failed\n")
    assert f"torch {torch.__version__}" in said


def test_a_wrong_result_is_the_exit_status(monkeypatch, tmp_path):
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(gpu_check, "LIBRARY", tmp_path / "build" / "library.so")
    monkeypatch.setattr(gpu_check, "prepare", lambda device: None)
    monkeypatch.setattr(gpu_check, "order", lambda device, ops: [Step("ops", lambda: ["softmax of 1 x 1"])])
    assert gpu_check.main("cpu", 60.0) == 1
    for folder in (tmp_path, tmp_path / "build"):
        content = json.loads((folder / "gpu_cpu.json").read_text())
        assert (content["device"], content["checks"]["ops"]["wrong"]) == ("cpu", ["softmax of 1 x 1"])
