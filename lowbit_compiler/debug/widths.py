"""A number of bits for each layer's weights, so that the model's output stays within a budget at the fewest bytes."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lowbit_compiler.debug.choice import Candidate, Choices, cheapest
from lowbit_compiler.debug.divergence import METRICS, Divergence
from lowbit_compiler.debug.names import Layer, layers
from lowbit_compiler.debug.study import SAME, Call, Progress, Samples, calls_of, compiled, float_outputs, run
from lowbit_compiler.debug.switched import Switched
from lowbit_compiler.errors import DebugError, OptionError
from lowbit_compiler.options import Options, parse, writable_file
from lowbit_compiler.recipes import WIDTHS, WIDTHS_OF, Recipe, finite_positive, recipe_file
from lowbit_compiler.rerun import restorer

MOST_TRIES = 10
"""Compilations of the whole model."""


@dataclass(frozen=True)
class Widths:
    """What :func:`widths` found; ``str()`` is a table."""

    recipe: Recipe
    chosen: dict[str, Candidate]
    """By layer, as ``sites`` and ``ignore`` take its name; ``loss`` is what was measured of the layer alone."""
    elements: int
    """Of these layers' weights."""
    metric: type[Divergence]
    budget: float | None
    most_bytes: int | None
    reached: float
    """Of the compiled model, as a budget is given."""

    @property
    def nbytes(self) -> int:
        """Bytes of the layers' weights: codes in their own bits, with all scales."""
        return sum(each.nbytes for each in self.chosen.values())

    @property
    def met(self) -> bool:
        """Whether the compiled model is within the budget, or its weights are within the bytes."""
        return self.nbytes <= self.most_bytes if self.most_bytes is not None else self.budget is not None and self.reached <= self.budget

    def to_toml(self) -> str:
        """Return the recipe as a file holds it."""
        return recipe_file.text(self.recipe)

    def __rich__(self) -> Any:
        from lowbit_compiler.debug.show_widths import shown

        return shown(self)

    def __str__(self) -> str:
        from lowbit_compiler.debug.show import plain

        return plain(self)


def widths(
    model: Callable[..., Any],
    samples: Samples,
    *,
    budget: float | None = None,
    most_bytes: int | None = None,
    metric: str = "kl",
    recipe: str | Recipe = WIDTHS_OF,
    words: Sequence[str] = WIDTHS,
    progress: Progress = lambda *_: None,
    **options: Any,
) -> Widths:
    """Choose one of ``words`` for each layer's weights: the fewest bytes within ``budget``, or the least loss within ``most_bytes``.

    ``samples`` are the inputs of one call (a tuple, or a dict of keyword arguments) or a list of such. ``metric`` says what the budget
    limits: "kl", the mean divergence of the distributions that the output's logits stand for, in nats, or "error", the output's relative
    error. ``recipe`` says everything but the words. ``options`` are those of the backend.

    The first input shows what each layer alone does in each format. As far as these losses add up, the choices of fewest bytes are known
    (lowbit_compiler/debug/choice.py); the whole model is compiled with up to 10 of them and run on all inputs, until the one with
    the fewest bytes that is within the budget is found. The same inputs give the same choice. Dynamo is reset before and after, as by
    ``explain``. Raises OptionError for bad options or samples and where there is nothing to choose, and DebugError where the float model
    raises or differs from run to run, and where compiling leaves a graph in float.
    """
    asked = check(budget=budget, most_bytes=most_bytes, metric=metric, recipe=recipe, **options)
    each = {word: replace(asked, recipe=replace(asked.recipe, weights=word, sites=())) for word in words}
    with torch.no_grad():
        search = _Search(model, calls_of(samples), METRICS[metric], progress)
        choices = search.measure(each)
        steps, reached = search.within_bytes(choices, most_bytes) if most_bytes is not None else search.within(choices, budget or 0.0)
        chosen = dict(zip(search.names, choices.after(steps), strict=True))
    mixed = _recipe(asked.recipe, chosen)
    return Widths(mixed, chosen, search.elements, METRICS[metric], budget, most_bytes, METRICS[metric].shown(reached))


def require_recipe_file(name: str, path: Path) -> None:
    """Raise OptionError where ``path`` cannot be written, or would not be taken for a recipe's file."""
    if not recipe_file.is_file_name(str(path)):
        raise OptionError(f"{name} takes FILE{recipe_file.SUFFIX}, got {str(path)!r}")
    writable_file(name, path, parents=True)


def check(*, budget: float | None, most_bytes: int | None, metric: str, recipe: str | Recipe, **options: Any) -> Options:
    """Return the options of a model that is measured, for the arguments of :func:`widths`; raises OptionError for what it does not accept."""
    if (budget is None) == (most_bytes is None):
        raise OptionError(f"widths takes a budget or a number of bytes, one of them, got budget={budget!r} and bytes={most_bytes!r}")
    for what, limit in (("budget", budget), ("bytes", most_bytes)):
        if limit is not None:
            finite_positive(what, limit)
    if metric not in METRICS:
        raise OptionError(f"metric takes one of {', '.join(METRICS)}, got {metric!r}")
    return parse({"plan": "always", "remainder": "eager", **options, "recipe": recipe})


def _recipe(base: Recipe, chosen: dict[str, Candidate]) -> Recipe:
    """Return ``base`` with the word of most layers, and the others' as sites."""
    words = [each.word for each in chosen.values()]
    most = max(dict.fromkeys(words), key=words.count)
    sites = tuple((name, each.word) for name, each in chosen.items() if each.word != most)
    return replace(base, name=f"{base.name}-widths".replace("-widths-widths", "-widths"), weights=most, sites=sites)


class _Search:
    """A model with its float outputs, and the measurements on it."""

    def __init__(self, model: Callable[..., Any], calls: Sequence[Call], metric: type[Divergence], progress: Progress) -> None:
        self._model, self._calls, self._progress = model, calls, progress
        self._restore = restorer(model)

        def take() -> Divergence:
            return metric(run(model, calls, self._restore, lambda done: progress("float model", done, len(calls))))

        def again(divergence: Divergence) -> tuple[bool, str]:
            loss = divergence.loss(run(model, calls, self._restore))
            return loss <= SAME**2, f"{metric.words} {loss:.2g}"

        self._divergence = float_outputs(take, again)
        self.names: list[str] = []
        self.elements = 0
        self._options: Options | None = None

    def measure(self, each: dict[str, Options]) -> Choices:
        """Return the choices there are, from the loss of each layer alone with each word; raises OptionError where there is no layer."""
        found = {word: self._alone(word, options) for word, options in each.items()}
        self._options = next(iter(each.values()))
        self.names = [name for name in next(iter(found.values())) if all(name in layers for layers in found.values())]
        if not self.names:
            raise OptionError("no product is low-bit with these options: there is nothing to choose")
        self.elements = sum(next(iter(found.values()))[name][1] for name in self.names)
        return Choices([[layers[name][0] for layers in found.values()] for name in self.names])

    def _alone(self, word: str, options: Options) -> dict[str, tuple[Candidate, int]]:
        """Return each layer with ``word``, alone in the float model, and the elements of its weight."""
        switched = Switched(self._model, options)
        found: dict[str, tuple[Candidate, int]] = {}

        def first() -> Any:
            return next(run(switched, self._calls[:1], self._restore))

        with switched.running(), switched.replaying(first):
            every = [layer for layer in layers(switched.products) if all(each.plan == options.recipe.plan for each in layer.products)]
            for index, layer in enumerate(every):
                self._progress(f"{word}: layer by layer", index, len(every))
                switched.low = layer.products
                found[layer.name] = Candidate(word, _nbytes(layer), self._divergence.loss([first()])), _elements(layer)
        return found

    def within_bytes(self, choices: Choices, most: int) -> tuple[int, float]:
        """Return the last choice of at most so many bytes and its loss; the first where there is none."""
        steps = max((steps for steps in range(len(choices) + 1) if choices.nbytes(steps) <= most), default=0)
        return steps, self._whole(choices, steps, 1)

    def within(self, choices: Choices, budget: float) -> tuple[int, float]:
        """Return the choice of fewest bytes within ``budget`` and its loss; the one of most bytes where none is."""
        tried = itertools.count(1)
        return cheapest(choices, self._divergence.of(budget), lambda steps: self._whole(choices, steps, next(tried)), MOST_TRIES)

    def _whole(self, choices: Choices, steps: int, tried: int) -> float:
        """Return the loss of the model compiled with a choice, over all inputs."""
        assert self._options is not None
        recipe = _recipe(self._options.recipe, dict(zip(self.names, choices.after(steps), strict=True)))
        self._progress(f"whole model, {choices.nbytes(steps) / 1e6:.2f} MB", tried, MOST_TRIES)
        options = replace(self._options, recipe=recipe)
        loss, fallback = compiled(self._model, options, lambda low: self._divergence.loss(run(low, self._calls, self._restore)))
        if fallback:  # float outputs meet any budget
            raise DebugError(f"compiled with {recipe}, a graph was left in float: {fallback}; 'lowbit debug bisect' finds out why")
        return loss


def _nbytes(layer: Layer) -> int:
    """Return the bytes of the layer's weights, each once where several graphs or calls have it."""
    operands = {(product.names, product.shape): product.plan.w for product in layer.products}
    return sum(n * operand.row_bytes(k) for (_, (n, k)), operand in operands.items())


def _elements(layer: Layer) -> int:
    return sum(n * k for _, (n, k) in {(product.names, product.shape) for product in layer.products})
