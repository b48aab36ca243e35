"""Runs of one model over given inputs, with some of its layers low-bit and the others in float."""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch

from lowbit_compiler.debug.measure import filled, tally
from lowbit_compiler.debug.metric import Judge, Metric, Score, relative
from lowbit_compiler.debug.names import Layer, layers
from lowbit_compiler.debug.switched import Product, Switched
from lowbit_compiler.debug.tally import Tally, finite
from lowbit_compiler.errors import OptionError
from lowbit_compiler.options import Options
from lowbit_compiler.report import Report

Call = tuple[tuple[Any, ...], dict[str, Any]]
Samples = Sequence[Any] | Mapping[str, Any]
"""The inputs of one call (a tuple, or a dict of keyword arguments), or a list of such."""
Progress = Callable[[str, int, int], None]
"""Called with a stage, what is done of it, and how much there is."""


def calls_of(samples: Samples) -> list[Call]:
    """Return arguments and keyword arguments of each call; raises OptionError."""
    if isinstance(samples, Mapping):
        return [((), dict(samples))]
    if not isinstance(samples, (tuple, list)) or not samples:
        raise OptionError(f"inputs are a tuple, a dict of keyword arguments, or a list of these, got {type(samples).__name__} of nothing")
    if isinstance(samples, list) and all(isinstance(sample, (tuple, Mapping)) for sample in samples):
        return [((), dict(sample)) if isinstance(sample, Mapping) else (tuple(sample), {}) for sample in samples]
    return [(tuple(samples), {})]


def run(model: Callable[..., Any], calls: Sequence[Call], done: Callable[[int], None] = lambda _: None) -> Iterator[Any]:
    """Yield the output of each call: on a copy of its inputs, which a cache would change, and from one seed."""
    for number, call in enumerate(calls, 1):
        args, kwargs = copy.deepcopy(call)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            output = model(*args, **kwargs)
        done(number)
        yield output


class Study:
    """A switched model with its float outputs as the reference. Use it without gradients."""

    def __init__(
        self, model: Callable[..., Any], calls: Sequence[Call], options: Options, metric: Metric | None, progress: Progress
    ) -> None:
        self._calls, self._progress = calls, progress
        self.judge = Judge(run(model, calls, lambda done: progress("float model", done, len(calls))), metric)
        self._switched = Switched(model, options)
        self.running = self._switched.running
        """A context that the methods are called in."""
        self.tallies: dict[Product, Tally] = {}
        self.layers: list[Layer] = []
        self._effects: dict[Layer, float] = {}

    def measure(self) -> None:
        """Find the layers, and compare every product of the first input with its float64 value."""
        runs = run(self._switched, self._calls, lambda done: self._progress("products", done, len(self._calls)))
        self.tallies = tally(self._switched, lambda: next(runs))
        for _ in runs:  # other shapes may be other graphs
            pass
        wholes = {site.module for site in self._switched.report.rewritten if site.kind != "linear"}
        self.layers = layers(self._switched.products, wholes)

    def score(self, low: Collection[Layer]) -> Score:
        """Run every input with the products of ``low`` alone in low precision."""
        self._switched.low = frozenset(product for layer in low for product in layer.products)
        try:
            return self.judge.score(run(self._switched, self._calls))
        finally:
            self._switched.low = frozenset()

    def effects(self) -> dict[Layer, float]:
        """Return the relative error of the first output that each layer alone makes; infinite for one that makes it NaN."""

        def first() -> Any:
            return next(run(self._switched, self._calls[:1]))

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

    def op(self, layer: Layer) -> str:
        """Return the names of the ops that a layer's products become."""
        return ", ".join(sorted({f"lowbit::{product.plan.op}" for product in layer.products}))
