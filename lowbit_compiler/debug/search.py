"""Bisection: the least count of which something is true; and with it the fewest members of a ranking that are enough."""

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
MOST_TRIES = 16  # evaluations spent on members that may not be needed


def least(high: int, true: Callable[[int], bool]) -> int:
    """Return the least count that is ``true``, in O(log ``high``) questions; 0 is known not to be, and ``high`` to be."""
    known = 0
    while high - known > 1:
        middle = (known + high) // 2
        if true(middle):
            high = middle
        else:
            known = middle
    return high


def fewest(ranked: Sequence[T], enough: Callable[[Sequence[T]], bool]) -> list[T] | None:
    """Return few members of ``ranked``, worst first, of which ``enough`` is true; None where it is not even true of all.

    ``enough`` is asked about O(log n) prefixes, and then without each of up to 16 members of the shortest, the mildest first.
    """
    if enough([]):
        return []
    if not ranked or not enough(ranked):
        return None
    chosen = list(ranked[: least(len(ranked), lambda count: enough(ranked[:count]))])
    for member in chosen[-2 : -2 - MOST_TRIES : -1]:  # the last is needed: the prefix before it was not enough
        rest = [each for each in chosen if each is not member]
        if enough(rest):
            chosen = rest
    return chosen
