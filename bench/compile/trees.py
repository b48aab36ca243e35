"""Two trees of this project at the same work in turn, each in a process and an environment of its own."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

HERE = Path(__file__).resolve().parents[2]


class Child:
    """A process of one tree that does its share when it is asked to."""

    def __init__(
        self,
        tree: Path,
        python: Path | str,
        script: str,
        arguments: Sequence[str],
        threads: int,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Start it with ``settings`` among the environment variables; raises SystemExit where the interpreter's lowbit is not this tree's."""
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("LOWBIT_")}
        # -P: the folder of the script comes before nothing.
        command = [str(python), "-P", str(Path(__file__).with_name(script)), *arguments]
        self.process = subprocess.Popen(
            command,
            env=env | {"OMP_NUM_THREADS": str(threads)} | dict(settings or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tree,
        )
        found = Path(self._answer()["tree"]).resolve()
        if not found.is_relative_to(tree):
            self.close()
            raise SystemExit(f"{python} imports {found}, which is not of {tree}: install that tree in an environment of its own")
        self.commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=tree, capture_output=True, text=True, check=True
        ).stdout.strip()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of {self.process.args} ended without an answer")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def turn(self) -> dict[str, Any]:
        """Do it once."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def both(against: Path, script: str, arguments: Sequence[str], threads: int) -> dict[str, Child]:
    """Start ``script`` of this folder in this tree and in the one at ``against``; raises SystemExit where that has no environment."""
    tree = against.resolve()
    if not (python := tree / ".venv" / "bin" / "python").exists():
        raise SystemExit(f"--against: {python} does not exist: install that tree in an environment of its own")
    trees = {"against": (tree, python), "here": (HERE, sys.executable)}
    return {name: Child(*where, script, arguments, threads) for name, where in trees.items()}


def measure(children: dict[str, Child], rounds: int, console: Console) -> dict[str, list[dict[str, Any]]]:
    """Return the answers of each tree by round; who begins changes from round to round. One turn of each warms up."""
    for child in children.values():
        child.turn()
    answers = defaultdict(list)
    for number in track(range(rounds), "rounds", console=console):
        for name in sorted(children, reverse=bool(number % 2)):
            answers[name].append(children[name].turn())
    for child in children.values():
        child.close()
    return answers
