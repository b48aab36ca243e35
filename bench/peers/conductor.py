"""Starts contestants, gives them turns, and turns their times into rows; a contestant that fails becomes a row with the reason."""

import fcntl
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from columns import Case
from contestants import CONTESTANTS, ISA

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "bench-cache"
# What results are past that have nothing to do with the exact ones: errors of zeros, perplexity of five times the model's, any cosine.
WRONG = {"relative_error": 1.0, "perplexity": 100.0, "similarity_change": 0.5}
PAUSE = 0.05  # seconds between turns: OpenMP's threads spin for a few milliseconds after their last work
PREPARE, TURN = 1200, 300  # seconds until a contestant counts as hanging

Row = dict[str, Any]


class Failed(Exception):
    """A contestant could not do what it was asked for."""


@dataclass
class Settings:
    """Of one run."""

    rounds: int
    threads: int
    accuracy: bool
    cold: bool
    at_once: int


class Child:
    """One contestant's process; what it compiles is kept in a folder of its own."""

    def __init__(self, contestant: str, column: str, threads: int) -> None:
        self.folder = folder(contestant, column)
        self.unfinished = self.folder / "unfinished"
        if self.unfinished.exists():  # it was stopped while it compiled: half a library may be lying there
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {
            **CONTESTANTS[contestant].limits.get(ISA, {}),
            "OMP_NUM_THREADS": str(threads),
            "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "inductor"),
            "XDG_CACHE_HOME": str(self.folder),
            "BENCH_CACHE": str(self.folder),
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        command = [sys.executable, str(Path(__file__).with_name("child.py")), contestant]
        with (self.folder / "log.txt").open("w") as log:
            # A session of its own: ctrl-C reaches the conductor alone, and killing the group ends compilers too.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | environment,
                start_new_session=True,
            )

    def prepare(self, case: Case) -> dict[str, Any]:
        """Have it load and compile."""
        self.unfinished.touch()
        answer = self.ask("prepare", PREPARE, case=asdict(case))
        self.unfinished.unlink(missing_ok=True)
        return answer

    def accuracy(self) -> dict[str, float]:
        """Have it compare its results with exact ones."""
        return {key: value for key, value in self.ask("accuracy", PREPARE).items() if key != "peak_mb"}

    def ask(self, do: str, timeout: float, **more: Any) -> dict[str, Any]:
        """Send a request and wait for the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        expired = threading.Event()

        def give_up() -> None:
            expired.set()
            self.stop()

        timer = threading.Timer(timeout, give_up)
        timer.start()
        try:
            print(json.dumps({"do": do, **more}), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:  # also when interrupted: the program would not end before the timer does
            timer.cancel()
        if expired.is_set():
            raise Failed(f"no answer within {timeout:.0f} s")
        if not line:
            raise Failed(_ending(self.process.wait()))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Failed(_short(answer["error"]))
        return answer

    def stop(self) -> None:
        """End the process and whatever it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def folder(contestant: str, column: str) -> Path:
    """Return where a contestant keeps what it compiled for a column."""
    return CACHE / (ISA or "best") / contestant / column


@contextmanager
def alone() -> Iterator[None]:
    """Keep a second run out: it would spoil the times of both, and the folders of what is compiled."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("another run of this benchmark is going on")
        yield


def measure(column: str, cases: list[Case], names: list[str], settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Return the rows of a column; the first name is the base, and takes part in every group that is held in memory at once."""
    base, others = names[0], names[1:]
    size = settings.at_once - 1
    groups = [[base, *others[i : i + size]] for i in range(0, len(others), size)] or [[base]]
    rows = [row for number, group in enumerate(groups, 1) for row in _group(column, cases, group, number, settings, say)]
    return [row for row in rows if row["contestant"] != base or row["group"] == 1]


def _group(column: str, cases: list[Case], names: list[str], number: int, settings: Settings, say: Callable[[str], None]) -> list[Row]:
    children: dict[str, Child] = {}
    rows: list[Row] = []
    try:
        for case in cases:
            results: dict[str, Row] = {name: _row(case, name, number) for name in names}
            for name in names:
                say(f"{case.name}: preparing {name}")
                _attempt(results[name], lambda row, case=case: _prepare(children, column, case, row, settings))
            _rounds(children, results, settings, lambda text, case=case: say(f"{case.name}: {text}"))
            for name, row in results.items():
                if settings.accuracy and "error" not in row:
                    say(f"{case.name}: accuracy of {name}")
                    _attempt(row, lambda row, name=name: row.update(accuracy=children[name].accuracy()))
                    _refuse_wrong(row)
            rows += results.values()
    finally:
        for child in children.values():
            child.stop()
    return rows


def _refuse_wrong(row: Row) -> None:
    """Take the time of a contestant whose results have nothing to do with the exact ones: it did not do the work."""
    for name, value in row.get("accuracy", {}).items():
        if not value < WRONG[name] and "ms" in row:
            row["error"] = f"wrong values: {name.replace('_', ' ')} {value:.1e}, in {row['ms']:.2f} ms"
            for key in [key for key in row if key in ("ratio", "joules") or key.endswith("ms")]:
                del row[key]


def _row(case: Case, name: str, group: int) -> Row:
    row: Row = {"case": case.name, "contestant": name, "group": group}
    return row if CONTESTANTS[name].limits or not ISA else row | {"unlimited": True}


def _prepare(children: dict[str, Child], column: str, case: Case, row: Row, settings: Settings) -> None:
    """Have a contestant load and compile; before, if the settings say so, in another process with an empty cache."""
    name = row["contestant"]
    if name not in children or children[name].process.poll() is not None:
        if settings.cold and row["group"] == 1:
            shutil.rmtree(folder(name, column), ignore_errors=True)
            cold = Child(name, column, settings.threads)
            try:
                row["cold_compile_s"] = cold.prepare(case)["compile_s"]
            finally:
                cold.stop()
        children[name] = Child(name, column, settings.threads)
    row.update(children[name].prepare(case))


def _rounds(children: dict[str, Child], results: dict[str, Row], settings: Settings, say: Callable[[str], None]) -> None:
    """Let everyone have a turn in each round, and put medians and ratios into the rows."""
    base = next(iter(results))
    times: dict[str, list[float]] = {name: [] for name in results}
    joules: dict[str, list[float]] = {name: [] for name in results}

    def turn(row: Row) -> None:
        name = row["contestant"]
        time.sleep(PAUSE)
        answer = children[name].ask("time", TURN)
        times[name].append(answer["seconds"])
        joules[name] += [answer["joules"]] if "joules" in answer else []
        row["peak_mb"] = answer["peak_mb"]

    for number in range(1, settings.rounds + 1):
        say(f"round {number} of {settings.rounds}")
        for row in results.values():
            if "error" not in row:
                _attempt(row, turn)
    for name, row in results.items():
        if "error" in row or not times[name]:
            continue
        if joules[name]:
            row["joules"] = statistics.median(joules[name])
        row["ms"] = statistics.median(times[name]) * 1e3
        row["lower_quartile_ms"], _, row["upper_quartile_ms"] = (1e3 * x for x in statistics.quantiles(times[name] * 2, n=4))
        if "error" not in results[base]:
            row["ratio"] = statistics.median(a / b for a, b in zip(times[base], times[name], strict=True))


def _attempt(row: Row, work: Callable[[Row], object]) -> None:
    try:
        work(row)
    except Failed as failure:
        row["error"] = str(failure)


def _ending(status: int) -> str:
    """Return what a process died of."""
    return f"ended with status {status}" if status >= 0 else f"{signal.strsignal(-status)} ({signal.Signals(-status).name})"


def _short(error: str) -> str:
    """Return an error in one line, without folders of this machine."""
    return re.sub(r"(/[\w.+-]+){2,}/", "", " ".join(error.split()))[:200]
