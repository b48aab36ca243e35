"""One word for each layer, for a limit: the order in which layers are given more bytes, by what each byte gains."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CLOSE = 0.005
"""Share of the bytes between a choice that is known to miss and one that is known to meet a limit, below which nobody looks further."""
GUESSES = 4
"""Tries that the sum of losses leads; those after them halve what is left."""


@dataclass(frozen=True)
class Candidate:
    """A layer's weights in one format: what they take, and what the layer alone does to the model's output."""

    word: str
    nbytes: int
    loss: float
    """At least 0; losses of several layers add up, as far as that goes."""


@dataclass(frozen=True)
class Step:
    """From one candidate of a layer to another with more bytes and less loss."""

    layer: int
    candidate: Candidate
    gain: float
    """Loss that a byte more saves."""


class Choices:
    """What is chosen after 0, 1, ... steps, from the fewest bytes on; every choice has the least sum of losses for its bytes.

    These are the choices that Lagrange multipliers find for ``sum of bytes + multiplier * sum of losses`` (Everett, Operations Research 11,
    1963): each layer goes along its lower convex hull, and all steps are taken in the order of their gain.
    """

    def __init__(self, layers: Sequence[Sequence[Candidate]]) -> None:
        self._cheapest = [min(layer, key=lambda each: (each.nbytes, each.loss)) for layer in layers]
        steps = [step for index, layer in enumerate(layers) for step in _hull(index, layer, self._cheapest[index])]
        self._steps = sorted(steps, key=lambda step: -step.gain)  # stable: those of a layer keep their order, as their gains fall
        every = [self.after(count) for count in range(len(self._steps) + 1)]
        self._sums = [(sum(each.nbytes for each in chosen), sum(each.loss for each in chosen)) for chosen in every]

    def __len__(self) -> int:
        return len(self._steps)

    def after(self, steps: int) -> list[Candidate]:
        """Return what each layer has after so many steps."""
        chosen = list(self._cheapest)
        for step in self._steps[:steps]:
            chosen[step.layer] = step.candidate
        return chosen

    def nbytes(self, steps: int) -> int:
        """Return the bytes of all layers."""
        return self._sums[steps][0]

    def loss(self, steps: int) -> float:
        """Return the sum of the layers' losses."""
        return self._sums[steps][1]


def _hull(index: int, layer: Sequence[Candidate], at: Candidate) -> list[Step]:
    """Return the steps along the lower convex hull of bytes and loss that begins with ``at``."""
    steps = []
    while better := [each for each in layer if each.nbytes > at.nbytes and each.loss < at.loss]:
        at, before = max(better, key=lambda each: (_gain(at, each), each.nbytes)), at
        steps.append(Step(index, at, _gain(before, at)))
    return steps


def _gain(before: Candidate, after: Candidate) -> float:
    return (before.loss - after.loss) / (after.nbytes - before.nbytes)


def cheapest(choices: Choices, limit: float, whole: Callable[[int], float], tries: int) -> tuple[int, float]:
    """Return the choice of fewest bytes, and its loss, for which ``whole``, the loss of the model with it, is at most ``limit``.

    ``whole`` is asked ``tries`` times at most, and once more where none has met the limit: then the last choice is returned, whatever its
    loss. The first guess is where the sum of the layers' losses meets the limit; the whole over that sum, where it was asked last,
    corrects the next ones.
    """
    missed, met = -1, len(choices) + 1
    loss, ratio = 0.0, 1.0
    found: tuple[int, float] | None = None
    for tried in range(tries):
        guess = _first_within(choices, limit / ratio) if tried < GUESSES else (missed + met) // 2
        steps = min(max(guess, missed + 1), met - 1)
        loss = whole(steps)
        if loss <= limit:
            met, found = steps, (steps, loss)
        else:
            missed = steps
        if met - missed <= 1 or (found and missed >= 0 and choices.nbytes(met) - choices.nbytes(missed) <= CLOSE * choices.nbytes(met)):
            break
        expected = choices.loss(steps)
        ratio = loss / expected if 0.0 < expected < math.inf and 0.0 < loss < math.inf else ratio
    return found or (len(choices), loss if missed == len(choices) else whole(len(choices)))


def _first_within(choices: Choices, limit: float) -> int:
    """Return the first choice whose losses add up to at most ``limit``; the last where there is none."""
    return next((steps for steps in range(len(choices)) if choices.loss(steps) <= limit), len(choices))
