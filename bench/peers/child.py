"""One contestant in a process of its own: it builds what it is asked for, then works only when it is its turn.

Lines of JSON, one answer a request: {"do": "prepare", "case": ...}, {"do": "time"}, {"do": "accuracy"}. The conductor (run.py) starts it.
"""

import importlib
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))
import accuracy
import energy
import tasks
from columns import Case
from common import batch, repeats_of
from contestants import CONTESTANTS

AT_LEAST = 0.1  # seconds a turn


class Worker:
    """What is prepared: one case at a time."""

    def __init__(self, name: str) -> None:
        self.contestant = CONTESTANTS[name]
        self.builder = importlib.import_module(self.contestant.module)
        self.meter = energy.meter()

    def prepare(self, case: dict[str, Any]) -> dict[str, Any]:
        """Load, build and warm up; the seconds count from loaded weights to the first result."""
        self.case = Case(**case)
        dtype = self.contestant.dtype
        self.task = tasks.load(self.case, getattr(torch, dtype)) if dtype else tasks.inputs_only(self.case)
        start = time.perf_counter()
        self.run: Callable[..., Any] = self.builder.build(self.task, self.case, **self.contestant.options)
        self.rewind()
        self.call()
        seconds = time.perf_counter() - start
        _stop_compilers()
        self.repeats = min(repeats_of(self.call, AT_LEAST), tasks.ROOM - 1 if self.case.cached else 1000)
        return {"compile_s": seconds, "repeats": self.repeats}

    def call(self) -> object:
        """Compute once."""
        return self.run(*self.task.inputs)

    def rewind(self) -> None:
        """Make room in the cache, where there is one."""
        getattr(self.run, "rewind", self.task.rewind)()

    def time(self) -> dict[str, Any]:
        """Have one turn: a call that wakes threads and fills caches, then the timed ones."""
        self.rewind()
        self.call()
        if isinstance(self.meter, str):
            return {"seconds": batch(self.call, self.repeats)}
        before = self.meter()
        seconds = batch(self.call, self.repeats)
        return {"seconds": seconds, "joules": (self.meter() - before) / self.repeats}

    def accuracy(self) -> dict[str, Any]:
        """Compare with exact results."""
        self.rewind()
        return accuracy.measure(self.case, self.run, self.task)


def _stop_compilers() -> None:
    """End Inductor's compile workers; they would only take memory."""
    if "torch._inductor.async_compile" in sys.modules:
        sys.modules["torch._inductor.async_compile"].shutdown_compile_workers()


def main() -> None:
    """Answer until the conductor hangs up."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print goes to the log
    worker: Worker | None = None
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.set_grad_enabled(False)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            worker = worker or Worker(sys.argv[1])
            answer = getattr(worker, request.pop("do"))(**request)
            answer["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
