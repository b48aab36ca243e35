"""Choices of one candidate for each layer, against every choice there is; the search for the cheapest that a whole model bears out."""

import itertools
import math
import random

import pytest

from lowbit_compiler.debug.choice import Candidate, Choices, cheapest


def some(seed: int, count: int = 5) -> list[list[Candidate]]:
    """Layers of other sizes, whose losses mostly fall by a factor of four for each bit, but not always."""
    dice = random.Random(seed)
    layers = []
    for _ in range(count):
        size, scale = dice.randrange(1, 20), dice.random()
        losses = [scale * 4.0**-bits * dice.uniform(0.3, 3.0) for bits in (3, 4, 5, 8)]
        layers.append([Candidate(f"{bits} bits", size * bits, loss) for bits, loss in zip((3, 4, 5, 8), losses, strict=True)])
    return layers


@pytest.mark.parametrize("seed", range(8))
def test_no_choice_has_less_of_both(seed: int) -> None:
    layers = some(seed)
    choices = Choices(layers)
    every = [(sum(c.nbytes for c in each), sum(c.loss for c in each)) for each in itertools.product(*layers)]
    for steps in range(len(choices) + 1):
        nbytes, loss = choices.nbytes(steps), choices.loss(steps)
        assert nbytes == sum(each.nbytes for each in choices.after(steps))
        better = [other for size, other in every if size <= nbytes]
        assert min(better) >= loss * (1 - 1e-12)  # sums in another order
    sizes = [choices.nbytes(steps) for steps in range(len(choices) + 1)]
    assert sizes == sorted(set(sizes))
    assert sizes[0] == min(size for size, _ in every)
    assert choices.loss(len(choices)) <= min(loss for _, loss in every) * (1 + 1e-12)


def test_a_layer_that_breaks_gets_more_first() -> None:
    layers = [[Candidate("a", 10, 0.5), Candidate("b", 20, 0.1)], [Candidate("a", 10, math.inf), Candidate("b", 20, 0.1)]]
    assert [each.word for each in Choices(layers).after(1)] == ["a", "b"]


@pytest.mark.parametrize("factor", [0.25, 1.0, 1.7, 30.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_cheapest_that_is_borne_out(seed: int, factor: float) -> None:
    """The whole loses another multiple of the sum: what is found is within the limit, and what is cheaper by more than half a percent is not."""
    choices = Choices(some(seed, 40))
    limit = choices.loss(len(choices) // 2) * 1.01
    asked = []

    def whole(steps: int) -> float:
        asked.append(steps)
        return factor * choices.loss(steps)

    steps, loss = cheapest(choices, limit, whole, 12)
    assert len(asked) <= 13
    assert loss == factor * choices.loss(steps)
    assert loss <= limit or steps == len(choices)
    if steps and loss <= limit:
        below = [other for other in range(steps) if choices.nbytes(other) < choices.nbytes(steps) * 0.995]
        assert factor * choices.loss(below[-1]) > limit


def test_a_limit_that_all_meet_and_one_that_none_does() -> None:
    choices = Choices(some(1))
    assert cheapest(choices, 1.0, lambda steps: 0.0, 10) == (0, 0.0)
    assert cheapest(choices, 1e-9, lambda steps: 1.0, 10) == (len(choices), 1.0)
    assert cheapest(choices, 1e-9, lambda steps: math.inf, 10) == (len(choices), math.inf)
