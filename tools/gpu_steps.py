"""Steps of `make gpu-check`, most telling first: each is started only where it should end within the budget, and its result is in a file at once."""

import importlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHOWN = 10  # lines of what is wrong

Results = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One check, whose ``run`` returns what is wrong, or one row of a ``table``."""

    name: str
    run: Callable[[], Any]
    table: str = ""
    """Empty for a check."""
    group: str = ""
    """Of checks that last about as long as each other, as the rows of a table do."""
    expected: float = 10.0
    """Seconds on a GPU, roughly, where no other of its table or group has run."""

    @property
    def kind(self) -> str:
        """Its table or group."""
        return self.table or self.group or self.name


@dataclass
class Log:
    """Results so far: ``content`` is rewritten to all of ``files`` after each step. A result that is there already is not made again."""

    content: Results
    files: Sequence[Path]

    def knows(self, step: Step) -> bool:
        """Return whether an earlier run has the step's result."""
        rows = self.content.get(step.table, ()) if step.table else self.content.get("checks", {})
        return step.name in (row["name"] for row in rows) if step.table else step.name in rows

    def add(self, step: Step, result: Any, seconds: float) -> None:
        """Keep and write the result of ``step``."""
        if step.table:
            self.content.setdefault(step.table, []).append({"name": step.name, **result})
        else:
            self.content.setdefault("checks", {})[step.name] = {"wrong": result, "seconds": round(seconds, 1)}
        self.write()

    def write(self) -> None:
        """Write everything so far."""
        write: Callable[[Path, str], None] = importlib.import_module("lowbit_compiler.runtime.files").write
        for file in self.files:
            write(file, json.dumps(self.content, indent=1) + "\n")

    @property
    def failed(self) -> list[str]:
        """The checks that found something wrong."""
        return [name for name, check in self.content.get("checks", {}).items() if check["wrong"]]


def resumed(file: Path, about: Results) -> Results:
    """Return the contents of ``file`` where they are of the same device and versions as ``about``.

    Raises:
        SystemExit: they are not, or cannot be read.
    """
    try:
        content: Results = json.loads(file.read_text())
        differ = [name for name in ("device", "torch", "sources") if content.get(name) != about[name]]
    except (OSError, ValueError, AttributeError) as error:
        raise SystemExit(f"gpu-check: --resume {file}: {error}") from None
    if differ:
        found = ", ".join(f"{name} {content.get(name)} is not {about[name]}" for name in differ)
        raise SystemExit(f"gpu-check: --resume {file}: {found}; leave out --resume to start anew")
    return content


def run(steps: Iterable[Step], log: Log, budget: float, clock: Callable[[], float] = time.monotonic) -> list[str]:
    """Run what fits in ``budget`` seconds from now; returns the names of what was left out for want of time."""
    end = clock() + budget
    longest: dict[str, float] = {}
    left_out = []
    for step in steps:
        if log.knows(step):
            print(f"known {step.name}")
            continue
        start = clock()
        if start + longest.get(step.kind, step.expected) > end:
            left_out.append(step.name)
            continue
        try:
            result = step.run()
        except Exception as error:
            result = _failed(step, error)
        seconds = clock() - start
        longest[step.kind] = max(longest.get(step.kind, 0.0), seconds)
        if not step.table:
            _print(step, result, seconds)
        if result is not None:
            log.add(step, result, seconds)
    return left_out


def _failed(step: Step, error: Exception) -> list[str] | None:
    """Return what an exception says: of a check that it is wrong; a row of a table is missing, say for want of memory."""
    said = f"{type(error).__name__}: {str(error)[:200]}"
    if not step.table:
        return [said]
    print(f"  {step.name} left out: {said}")
    return None


def _print(step: Step, wrong: list[str], seconds: float) -> None:
    print(f"{'WRONG' if wrong else 'ok':<6}{step.name:<44}{seconds:>7.1f} s")
    for line in wrong[:SHOWN]:
        print(f"      {line}")
    if len(wrong) > SHOWN:
        print(f"      and {len(wrong) - SHOWN} more")
