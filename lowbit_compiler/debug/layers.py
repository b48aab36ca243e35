"""Which layers hurt: each low-bit layer alone in the float model, and a short list of those to leave in float for a budget."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from lowbit_compiler.debug.metric import Metric, Score
from lowbit_compiler.debug.names import Layer
from lowbit_compiler.debug.search import MOST_TRIES, fewest
from lowbit_compiler.debug.study import Progress, Samples, Study, calls_of, compiled
from lowbit_compiler.debug.tally import finite
from lowbit_compiler.errors import DebugError, OptionError
from lowbit_compiler.options import IGNORE_NAMES, parse
from lowbit_compiler.recipes import DEFAULT, RECIPES, Recipe, find_recipe
from lowbit_compiler.report import Measured, Report

GROWTH = 1.5  # of the list, after a compilation with it that misses the budget


@dataclass(frozen=True)
class LayerResult:
    """One layer: the worst that its products showed, and what it does to the model alone."""

    name: str
    """As ``ignore`` takes it."""
    op: str
    measured: Measured

    @property
    def broken(self) -> bool:
        """Whether an error exceeds its bound, the product's or the packed weight's: a kernel or a weight is wrong."""
        return max(self.measured.tightness or 0.0, self.measured.weight_tightness or 0.0) > 1.0


@dataclass
class Accuracy:
    """What :func:`accuracy` found; ``str()`` is a table, ``to_json()`` the options that meet the budget."""

    report: Report
    """As of ``explain``, with ``measured``."""
    layers: list[LayerResult]
    """Worst first."""
    kind: str
    """What the budget limits: "perplexity", "relative error" or "metric"."""
    budget: float
    before: float
    """Of the float model."""
    low: Score
    """Of the low-bit model as asked for."""
    options: dict[str, Any]
    """For torch.compile: as asked for, with the entries of ``ignore`` that the budget needs."""
    ignored: list[str] = field(default_factory=list)
    """The entries added."""
    reached: Score | None = None
    """Of the model compiled with ``options``; None where not even declining every layer meets the budget."""

    @property
    def met(self) -> bool:
        """Whether the compiled model is within the budget."""
        return self.reached is not None and self.reached.change <= self.budget

    def to_json(self) -> str:
        """Return ``options`` as JSON, without a recipe of the user's own, which JSON cannot hold."""
        recipe = find_recipe(self.options["recipe"])
        rest = {key: value for key, value in self.options.items() if key != "recipe"}
        return json.dumps({"recipe": recipe.name, **rest} if RECIPES.get(recipe.name) == recipe else rest, indent=1)

    def __rich__(self) -> Any:
        from lowbit_compiler.debug.show import shown

        return shown(self)

    def __str__(self) -> str:
        from lowbit_compiler.debug.show import plain

        return plain(self)


def accuracy(
    model: Callable[..., Any],
    samples: Samples,
    *,
    recipe: str | Recipe = DEFAULT,
    budget: float = 0.003,
    metric: Metric | None = None,
    progress: Progress = lambda *_: None,
    **options: Any,
) -> Accuracy:
    """Rank the low-bit layers of ``model`` by the error they introduce, and find few to decline for ``budget``.

    ``samples`` are the inputs of one call (a tuple, or a dict of keyword arguments) or a list of such. ``budget`` limits the relative
    growth of the perplexity where outputs have a ``loss`` (inputs with labels), of ``metric`` where one is given, else the relative error
    of the outputs (lowbit_compiler/debug/metric.py). ``options`` are those of the backend.

    The first input shows each product's error and, with one layer at a time low-bit, that layer's effect. All inputs are run at
    most 2 + log2(layers) + 16 times to search, and compiled with the options found; where that misses the budget, with half as many
    layers more. Every run starts from copies of the inputs, the same buffers and the same random numbers; Dynamo is reset before and after, as by ``explain``. Raises OptionError for bad options or samples
    and where the float model's outputs are no measure, and DebugError where the float model raises or differs from run to run, and where
    compiling with the options found leaves a graph in float.
    """
    asked = {"recipe": recipe, **options}
    parsed = parse(asked)
    if not budget >= 0:
        raise OptionError(f"budget takes a number >= 0 (0.003 is 0.3 %), got {budget!r}")
    calls = calls_of(samples)
    with torch.no_grad():
        study = Study(model, calls, parsed, metric, progress)
        with study.running():
            ranked, rows, low = _ranking(study)
            chosen = _declined(study, ranked, budget, progress)
            result = Accuracy(study.report(), rows, study.judge.kind, budget, study.judge.before, low, asked)
        while chosen is not None:
            names = [layer.name for layer in chosen]
            given = {**{key: value for key, value in asked.items() if key not in IGNORE_NAMES}, "ignore": [*parsed.ignore, *names]}
            reached, fallback = compiled(model, parse(given), lambda low: study.score_of(low, "compiled model"))
            if fallback:  # float outputs meet any budget
                raise DebugError(f"compiled with {given}, a graph was left in float: {fallback}; 'lowbit debug bisect' finds out why")
            result = replace(result, options=given, ignored=names, reached=reached)
            # The compiled model rounds elsewhere than what was searched; on few tokens that alone can miss a budget.
            more = ranked[: math.ceil(len(chosen) * GROWTH) + 1]
            chosen = None if result.met or len(more) <= len(chosen) else more
    return result


def _ranking(study: Study) -> tuple[list[Layer], list[LayerResult], Score]:
    """Return the layers and their results, worst first, and the score with all of them low-bit."""
    study.measure()
    effects = study.effects()
    results = {layer: _result(study, layer, effects[layer]) for layer in study.layers}
    ranked = sorted(study.layers, key=lambda layer: (results[layer].broken, effects[layer]), reverse=True)
    return ranked, [results[layer] for layer in ranked], study.score()


def _result(study: Study, layer: Layer, effect: float) -> LayerResult:
    """Return the worst of the layer's products: the same module in several graphs, or several slices of one parameter."""
    shown = [study.tallies[product].measured() for product in layer.products if product in study.tallies]

    def worst(of: Callable[..., float | None], name: str) -> float | None:
        return of((getattr(each, name) for each in shown if getattr(each, name) is not None), default=None)

    measured = Measured(
        sqnr=worst(min, "sqnr"),
        cosine=worst(min, "cosine"),
        error=worst(max, "error"),
        bound=worst(max, "bound"),
        tightness=worst(max, "tightness"),
        weight_tightness=worst(max, "weight_tightness"),
        effect=finite(effect),
    )
    return LayerResult(layer.name, study.op(layer), measured)


def _declined(study: Study, ranked: Sequence[Layer], budget: float, progress: Progress) -> list[Layer] | None:
    """Return the layers to decline for ``budget``, None where there is no such list."""
    most = 2 + math.ceil(math.log2(max(len(ranked), 1))) + MOST_TRIES
    tried = 0

    def enough(out: Sequence[Layer]) -> bool:
        nonlocal tried
        tried += 1
        progress(f"search: {len(out)} of {len(ranked)} layers in float", tried, most)
        return study.score(out).change <= budget

    return fewest(ranked, enough)
