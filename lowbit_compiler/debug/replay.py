"""A model that Dynamo traced once, and whose graphs run again and again on the same inputs under other options."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx

from lowbit_compiler.capture.captured import Captured
from lowbit_compiler.capture.dynamo import capture_dynamo
from lowbit_compiler.compile.driver import compile_captured
from lowbit_compiler.compile.verify import SAME_SQNR, same_random_numbers, sqnr
from lowbit_compiler.errors import DebugError, OptionError, WeightFreedError
from lowbit_compiler.options import Options
from lowbit_compiler.passes.graph import copied
from lowbit_compiler.report import Report
from lowbit_compiler.rerun import USUAL, describe, restorer
from lowbit_compiler.torch_internals import dynamo, inductor
from lowbit_compiler.torch_internals.trees import tree_leaves

Plans = Sequence[Options]
"""The options of the first graphs of a model; the others run as captured, in float."""


@dataclass(frozen=True)
class Outcome:
    """What one run gave: the SQNR in dB of its worst output to the float model's, or what it raised."""

    sqnr: float = float("nan")
    error: str = ""
    reports: tuple[Report, ...] = field(default=(), repr=False)

    def fails(self, floor: float) -> bool:
        """Return whether the run raised, or is below ``floor`` dB, or has NaN where the float model has a number."""
        return bool(self.error) or not self.sqnr >= floor

    def __str__(self) -> str:
        return self.error or f"{self.sqnr:.1f} dB"


class Replay:
    """Runs ``model(*inputs)`` in float, and in low precision under given options; gradients are off.

    Inputs and buffers that the model writes to, and the random state, are the same at the start of every run. Raises DebugError where
    the float model fails by itself: it raises, differs from run to run, or is changed by being traced.
    """

    def __init__(self, model: Callable[..., Any], inputs: Sequence[Any]) -> None:
        self._model, self._inputs = model, tuple(inputs)
        self._restore = restorer(model, self._inputs)
        self.captured: list[tuple[Captured, list[Any]]] = []
        self._runs: list[Callable[..., Any]] = []
        self._tracing = False
        self.threads: int | None = None
        """Threads while low-bit graphs are compiled and run; None: as everything else."""
        self._want = self._float("the float model", model)
        if not self._want:
            raise DebugError("the model returns no floating-point tensor, so there is nothing to compare")
        self._compare_float("a second run on the same inputs", model)
        self._traced: Callable[..., Any] | None = self._trace()
        self._compare_float("a run of what Dynamo traced, before any pass,", self._traced)

    @property
    def graphs(self) -> int:
        """How many graphs the model has."""
        return len(self.captured)

    def attempt(self, plans: Plans) -> Outcome:
        """Run with the first graphs compiled as ``plans`` say, and compare with the float model."""
        reports: list[Report] = []
        try:
            if any(plan.remainder != "eager" for plan in plans):
                run = self._compiled(plans, reports)
            else:
                if self._traced is None:
                    self._traced = self._trace()
                run = self._traced
                for index, plan in enumerate(plans):
                    self._runs[index], report = self._compile(fresh(self.captured[index][0]), self.captured[index][1], plan)
                    reports.append(report)
            got = self._run(run)
        except Exception as error:
            _raise_if_told(error)
            return Outcome(error=describe(error), reports=tuple(reports))
        finally:
            self._runs = [captured.gm.forward for captured, _ in self.captured]
        return Outcome(worst(got, self._want), reports=tuple(reports))

    def inductor_alone(self) -> Outcome:
        """Run the float model through Inductor, without lowbit."""
        self._reset()
        try:
            return Outcome(worst(self._run(torch.compile(self._model)), self._want))
        except Exception as error:
            _raise_if_told(error)
            return Outcome(error=describe(error))

    def _trace(self) -> Callable[..., Any]:
        """Return the model with its graphs taken from ``_runs`` at every call."""
        torch.compiler.reset()
        self.captured, self._runs = [], []

        def backend(gm: fx.GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
            if not self._tracing:
                raise DebugError(f"Dynamo traces the model anew in every run, so its graphs cannot be exchanged; {USUAL}")
            index, captured = len(self.captured), capture_dynamo(gm, examples)
            self.captured.append((captured, list(examples)))
            self._runs.append(captured.gm.forward)
            return lambda *args: self._runs[index](*args)

        traced = torch.compile(self._model, backend=backend)
        self._tracing = True
        try:
            self._float("tracing the float model", traced)
        finally:
            self._tracing = False
        return traced

    def _compile(self, captured: Captured, examples: Sequence[Any], plan: Options) -> tuple[Callable[..., Any], Report]:
        """Compile one graph; not the whole run has other threads, because Dynamo guards on their number."""
        with _using(self.threads):
            executable, report = compile_captured(captured, examples, plan)

        def run(*args: Any) -> Any:
            with _using(self.threads):
                return executable(*args)

        return run, report

    def _compiled(self, plans: Plans, reports: list[Report]) -> Callable[..., Any]:
        """Return the model compiled through the front door; Dynamo's context is there, as Inductor wants it."""
        self._reset()

        def backend(gm: fx.GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
            if len(reports) >= len(plans):
                return gm.forward
            run, report = self._compile(capture_dynamo(gm, examples), examples, plans[len(reports)])
            reports.append(report)
            return run

        return torch.compile(self._model, backend=backend)

    def _reset(self) -> None:
        """Forget what Dynamo has compiled: it would count every backend as one more recompilation of the same code."""
        torch.compiler.reset()
        self._traced = None

    def _run(self, run: Callable[..., Any]) -> list[Tensor]:
        # Inductor would draw other random numbers than eager mode does.
        with torch.no_grad(), same_random_numbers(), inductor.settings({"fallback_random": True}):
            self._restore()
            return [x.detach().clone() for x in floats(run(*self._inputs))]

    def _float(self, what: str, run: Callable[..., Any]) -> list[Tensor]:
        try:
            return self._run(run)
        except Exception as error:
            _raise_if_told(error)
            raise DebugError(f"{what} fails by itself, without lowbit: {describe(error)}") from error

    def _compare_float(self, what: str, run: Callable[..., Any]) -> None:
        ratio = worst(self._float(what, run), self._want)
        if not ratio >= SAME_SQNR:
            raise DebugError(
                f"{what} gives other values than the float model ({ratio:.1f} dB SQNR): nothing can be told from them; {USUAL}"
            )


def worst(got: Sequence[Tensor], want: Sequence[Tensor]) -> float:
    """Return the lowest SQNR in dB of a floating-point output; NaN where one has NaN in place of a number, or another shape."""
    if [x.shape for x in got] != [x.shape for x in want]:
        return float("nan")
    ratios = [sqnr(ours, theirs) for ours, theirs in zip(got, want, strict=True)]
    return float("nan") if any(map(math.isnan, ratios)) else min(ratios)


def floats(output: Any) -> list[Tensor]:
    """Return every floating-point tensor of a model's output, in order."""
    leaves = tree_leaves(dict(output) if hasattr(output, "keys") else output)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def fresh(captured: Captured) -> Captured:
    """Return a copy that passes may rewrite."""
    graph = fx.Graph()
    copied(captured.gm.graph.nodes, graph)
    return replace(captured, gm=fx.GraphModule(captured.gm, graph))


def _raise_if_told(error: BaseException) -> None:
    """Raise what says by itself what the user can do; no pass is at fault there."""
    if isinstance(dynamo.inner(error), OptionError | DebugError | WeightFreedError):
        raise dynamo.inner(error) from None


@contextlib.contextmanager
def _using(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
