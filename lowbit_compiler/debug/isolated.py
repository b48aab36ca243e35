"""Runs of a model each in a process of its own, so that one which kills its process is an outcome like another."""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lowbit_compiler.debug.bisect import InProcess
from lowbit_compiler.debug.region import Region
from lowbit_compiler.debug.replay import Outcome, Plans
from lowbit_compiler.errors import DebugError, LowbitError
from lowbit_compiler.options import Options

CHILD = "from lowbit_compiler.debug.isolated import child; child()"


class Isolated:
    """The bench of ``FILE.py:FUNCTION``, asked through child processes; raises what the child raises."""

    def __init__(self, function: str) -> None:
        self._function = function
        self.graphs = self._ask("graphs")
        if isinstance(self.graphs, Outcome):
            raise DebugError(f"the float model fails by itself, without lowbit: {self.graphs}")

    def attempt(self, plans: Plans) -> Outcome:
        """As Replay.attempt; a process that dies is an error."""
        return self._ask("attempt", plans)  # type: ignore[no-any-return]

    def inductor_alone(self) -> Outcome:
        """As Replay.inductor_alone."""
        return self._ask("inductor_alone")  # type: ignore[no-any-return]

    def region(self, graph: int, options: tuple[Options, Options], index: int | None) -> Region:
        """As InProcess.region; no text where making it kills the process."""
        found = self._ask("region", graph, options, index)
        return Region("", f"# {found}\n") if isinstance(found, Outcome) else found

    def _ask(self, name: str, *args: Any) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            question, answer = Path(folder) / "question", Path(folder) / "answer"
            question.write_bytes(pickle.dumps((self._function, name, args)))
            run = subprocess.run(
                [sys.executable, "-c", CHILD, question, answer], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
            )
            if answer.is_file():
                result = pickle.loads(answer.read_bytes())
                if isinstance(result, Exception):
                    raise result
                return result
        return Outcome(error=_end(run.returncode, run.stderr))


def child() -> None:
    """Answer one question of :class:`Isolated`; its files are the two arguments of the process."""
    import torch

    from lowbit_compiler.cli_model import load_function

    question, answer = map(Path, sys.argv[1:])
    function, name, args = pickle.loads(question.read_bytes())
    try:
        model, inputs = load_function(function)
        with torch.no_grad():
            bench = InProcess(model, inputs)
            result: Any = bench.graphs if name == "graphs" else getattr(bench, name)(*args)
    except LowbitError as error:
        result = error
    answer.with_suffix(".part").write_bytes(pickle.dumps(result))
    os.replace(answer.with_suffix(".part"), answer)


def _end(status: int, errors: str) -> str:
    if status < 0:
        return f"the process died of {signal.Signals(-status).name}"
    last = next(iter(errors.strip().splitlines()[-1:]), "")
    return f"the process ended with status {status}: {last}"
