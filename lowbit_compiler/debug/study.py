"""Runs of one model over given inputs, with some of its layers low-bit and the others in float."""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, fx

from lowbit_compiler.compile.driver import compile_dynamo
from lowbit_compiler.compile.explaining import alone, joined
from lowbit_compiler.compile.history import last_report
from lowbit_compiler.compile.verify import same_random_numbers
from lowbit_compiler.debug.measure import filled, tally
from lowbit_compiler.debug.metric import Judge, Metric, Score, relative
from lowbit_compiler.debug.names import Layer, layers
from lowbit_compiler.debug.switched import Switch, Switched
from lowbit_compiler.debug.tally import Tally, finite
from lowbit_compiler.errors import DebugError, LowbitError, OptionError
from lowbit_compiler.options import Options
from lowbit_compiler.report import Report
from lowbit_compiler.rerun import describe, restorer
from lowbit_compiler.torch_internals.trees import tree_map_only

T = TypeVar("T")
Call = tuple[tuple[Any, ...], dict[str, Any]]
Samples = Sequence[Any] | Mapping[str, Any]
"""The inputs of one call (a tuple, or a dict of keyword arguments), or a list of such."""
Progress = Callable[[str, int, int], None]
"""Called with a stage, what is done of it, and how much there is."""
SAME = 1e-3
"""Change of the float model from run to run that may be sums in another order."""


def calls_of(samples: Samples) -> list[Call]:
    """Return arguments and keyword arguments of each call, without their gradients; raises OptionError."""
    accepted = "inputs are a tuple, a dict of keyword arguments, or a list of these"
    if not isinstance(samples, (tuple, list, Mapping)):
        raise OptionError(f"{accepted}, got {type(samples).__name__}")
    if not samples:
        raise OptionError(f"{accepted}, got an empty {type(samples).__name__}")
    each = samples if isinstance(samples, list) and all(isinstance(sample, (tuple, Mapping)) for sample in samples) else [samples]
    calls: list[Call] = [((), dict(sample)) if isinstance(sample, Mapping) else (tuple(sample), {}) for sample in each]
    calls = tree_map_only(Tensor, Tensor.detach, calls)  # a tensor with a history cannot be copied
    try:
        copy.deepcopy(calls)
    except Exception as error:
        raise OptionError(f"the inputs cannot be copied, which every run needs: {describe(error)}") from error
    return calls


def run(
    model: Callable[..., Any], calls: Sequence[Call], restore: Callable[[], None], done: Callable[[int], None] = lambda _: None
) -> Iterator[Any]:
    """Yield the output of each call: on a copy of its inputs, which a cache would change, from one seed, and restored before and after."""
    try:
        for number, call in enumerate(calls, 1):
            args, kwargs = copy.deepcopy(call)
            restore()
            with same_random_numbers():
                output = model(*args, **kwargs)
            done(number)
            yield output
    finally:
        restore()


def compiled(model: Callable[..., Any], options: Options, use: Callable[[Callable[..., Any]], T]) -> tuple[T, str]:
    """Return what ``use`` makes of ``model`` as torch.compile compiles it, and why a graph of it was left in float ("" where none was)."""
    reports: list[Report] = []

    def backend(gm: fx.GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
        result = compile_dynamo(gm, examples, options)
        reports.append(last_report())
        return result

    with alone():
        used = use(torch.compile(model, backend=backend))
    return used, joined(options.recipe.name, reports).fallback


def float_outputs(take: Callable[[], T], again: Callable[[T], tuple[bool, str]]) -> T:
    """Return what ``take`` makes of the float model's outputs; ``again`` returns whether another run has the same, and how far off it is.

    Raises DebugError where the model raises, or has others.
    """
    try:
        taken = take()
        same, distance = again(taken)
    except LowbitError:
        raise
    except Exception as error:
        raise DebugError(f"the float model fails by itself, without lowbit: {describe(error)}") from error
    if not same:
        raise DebugError(
            f"the float model gives other values when it is run again on the same inputs ({distance}): nothing can be told from its outputs"
        )
    return taken


class Study:
    """A switched model with its float outputs as the reference. Use it without gradients.

    Raises DebugError where the float model raises, or gives other outputs when it is run again on the same inputs.
    """

    def __init__(
        self, model: Callable[..., Any], calls: Sequence[Call], options: Options, metric: Metric | None, progress: Progress
    ) -> None:
        self._calls, self._progress = calls, progress
        self._switched = Switched(model, options)  # before the model runs: it checks the options
        self.running = self._switched.running
        """A context that the methods are called in."""
        self._restore = restorer(model)

        def again(judge: Judge) -> tuple[bool, str]:
            change = judge.score(self._run(model, "float model again")).change
            return abs(change) <= SAME, f"{judge.kind} {change:+.3%}"

        self.judge = float_outputs(lambda: Judge(self._run(model, "float model"), metric), again)
        self.tallies: dict[Switch, Tally] = {}
        self.layers: list[Layer] = []
        self._effects: dict[Layer, float] = {}

    def measure(self) -> None:
        """Find the layers, and compare every product of the first input with its float64 value."""
        runs = self._run(self._switched, "products")
        self.tallies = tally(self._switched, lambda: next(runs))
        for _ in runs:  # other shapes may be other graphs
            pass
        wholes = {site.module for site in self._switched.report.rewritten if site.kind != "linear"}
        self.layers = layers(self._switched.products, wholes)

    def score(self, out: Collection[Layer] = ()) -> Score:
        """Run every input in low precision, without the products of ``out``."""
        self._switched.low = frozenset(self._switched.products) - {product for layer in out for product in layer.products}
        try:
            return self.score_of(self._switched)
        finally:
            self._switched.low = frozenset()

    def score_of(self, model: Callable[..., Any], stage: str = "") -> Score:
        """Run ``model``, a form of the one given, on every input."""
        return self.judge.score(self._run(model, stage))

    def effects(self) -> dict[Layer, float]:
        """Return the relative error of the first output that each layer alone makes; infinite for one that makes it NaN."""

        def first() -> Any:
            return next(run(self._switched, self._calls[:1], self._restore))

        with self._switched.replaying(first):
            for index, layer in enumerate(self.layers):
                self._progress("layer by layer", index, len(self.layers))
                self._switched.low = layer.products
                self._effects[layer] = relative(*self.judge.distance(first(), 0))
        self._switched.low = frozenset()
        return self._effects

    def report(self) -> Report:
        """Return the report with all that was measured; a product has the effect of its layer."""
        rows = {product: tally.measured() for product, tally in self.tallies.items()}
        for layer, effect in self._effects.items():
            rows |= {product: self.tallies[product].measured(finite(effect)) for product in layer.products if product in rows}
        return filled(self._switched, rows)

    def _run(self, model: Callable[..., Any], stage: str = "") -> Iterator[Any]:
        count = len(self._calls)
        return run(model, self._calls, self._restore, lambda done: self._progress(stage, done, count) if stage else None)

    def op(self, layer: Layer) -> str:
        """Return the names of the ops that a layer's products become."""
        return ", ".join(sorted({f"lowbit::{product.plan.op}" if product.plan.op else "emulated" for product in layer.products}))
