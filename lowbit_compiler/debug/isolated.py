"""Runs of a model each in a process of its own, so that one which kills its process is an outcome like another."""

import os
import pickle
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from lowbit_compiler.debug.bisect import Bench
from lowbit_compiler.debug.region import Region
from lowbit_compiler.debug.replay import Outcome, Plans
from lowbit_compiler.errors import DebugError, LowbitError, OptionError
from lowbit_compiler.options import Options
from lowbit_compiler.rerun import describe
from lowbit_compiler.runtime import timings
from lowbit_compiler.torch_internals.trees import tree_leaves


class Isolated(Bench):
    """The bench of a CPU model that forks for each run: the float model is traced once, and crashes end the copy.

    This process must not have started OpenMP's threads, which a fork does not copy: make the bench under torch.set_num_threads(1).
    """

    def __init__(self, model: Callable[..., Any], inputs: Sequence[Any], threads: int) -> None:
        """``threads`` are those that the copies use. Raises OptionError where a copy of the process could not run the model."""
        if not hasattr(os, "fork"):
            raise OptionError("--isolate needs os.fork, which this system has not")
        own = (*model.parameters(), *model.buffers()) if isinstance(model, nn.Module) else ()
        if any(isinstance(x, Tensor) and x.is_cuda for x in (*tree_leaves(tuple(inputs)), *own)):
            raise OptionError("--isolate takes a model and inputs on the CPU: CUDA does not work in a fork")
        super().__init__(model, inputs)
        self._in_copies = threads

    def attempt(self, plans: Plans) -> Outcome:
        """As Replay.attempt; a process that dies is an error."""
        found = self._forked(lambda: super(Isolated, self).attempt(plans))
        return Outcome(error=found) if isinstance(found, str) else found

    def inductor_alone(self) -> Outcome:
        """As Replay.inductor_alone."""
        found = self._forked(super().inductor_alone)
        return Outcome(error=found) if isinstance(found, str) else found

    def region(self, graph: int, options: tuple[Options, Options], index: int | None) -> Region:
        """As Bench.region; where the pass kills the process, the text after it says so."""
        found = self._forked(lambda: super(Isolated, self).region(graph, options, index))
        if isinstance(found, Region):
            return found
        before = self._forked(lambda: super(Isolated, self).region(graph, (options[0], options[0]), index))
        return replace(before, after=f"# {found}\n") if isinstance(before, Region) else Region("", f"# {found}\n")

    def _forked(self, run: Callable[[], Any]) -> Any:
        """Return what ``run`` returns or raise what it raises in a copy of this process; or return how the copy ended, a sentence."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(reading)
                self.threads = self._in_copies
                answer = _answer(run)
                with os.fdopen(writing, "wb") as file:
                    file.write(answer)
                status = 0
            finally:
                os._exit(status)  # nothing of the parent's may run here: no handlers, no buffers written twice
        os.close(writing)
        try:
            with os.fdopen(reading, "rb") as file:
                answer = file.read()
        finally:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            return f"the process died of {signal.Signals(-status).name}" if status < 0 else f"the process ended with status {status}"
        result, error, known = pickle.loads(answer)
        timings.learn(known)  # so that the next copy plans the same
        if error is not None:
            raise error
        return result


def _answer(run: Callable[[], Any]) -> bytes:
    """Return what ``run`` returns, what it raises, and the timings known then, pickled."""
    try:
        return pickle.dumps((run(), None, timings.known()))
    except LowbitError as error:
        return pickle.dumps((None, error, timings.known()))
    except Exception as error:  # of any type, which may not be one to pickle
        return pickle.dumps((None, DebugError(f"an attempt failed: {describe(error)}"), timings.known()))
