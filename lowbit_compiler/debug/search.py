"""The fewest layers to decline: the shortest sufficient prefix of a ranking by bisection, then without the members not needed."""

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
MOST_TRIES = 16  # evaluations spent on members that may not be needed


def fewest(ranked: Sequence[T], enough: Callable[[Sequence[T]], bool]) -> list[T] | None:
    """Return few members of ``ranked``, worst first, of which ``enough`` is true; None where it is not even true of all.

    ``enough`` is asked about O(log n) prefixes, and then without each of up to 16 members of the shortest, the mildest first.
    """
    if enough([]):
        return []
    if not ranked or not enough(ranked):
        return None
    short, long = 0, len(ranked)  # not enough, enough
    while long - short > 1:
        middle = (short + long) // 2
        if enough(ranked[:middle]):
            long = middle
        else:
            short = middle
    chosen = list(ranked[:long])
    for member in chosen[-2 : -2 - MOST_TRIES : -1]:  # the last is needed: the prefix before it was not enough
        rest = [each for each in chosen if each is not member]
        if enough(rest):
            chosen = rest
    return chosen
