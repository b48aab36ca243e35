"""What to write into ``ignore`` so that one product is declined, and as little else as can be."""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lowbit_compiler.debug.switched import Switch


@dataclass(frozen=True)
class Layer:
    """The products that one entry of ``ignore`` declines: usually one, more where graphs or calls share a module."""

    name: str
    products: frozenset[Switch]


def layers(products: Sequence[Switch], others: Iterable[str] = ()) -> list[Layer]:
    """Return for each product the entry that declines the fewest with it; ``others`` are modules that had better stay out of it.

    A plain name comes first, then an exact regular expression: the module ``0`` would name ``blocks.0`` too. Products that only a shared
    name reaches (slices of one parameter) are one layer.
    """
    reached: dict[str, set[Switch | str]] = defaultdict(set)
    named: list[tuple[Switch | str, tuple[str, ...]]] = [(product, product.names) for product in products]
    for who, names in [*named, *((name, (name,)) for name in others)]:
        for entry in {entry for name in names for entry in (*_runs(name), _exactly(name))}:
            reached[entry].add(who)
    found: dict[str, Layer] = {}
    for product in products:
        best = min((*product.names, *map(_exactly, product.names)), key=lambda entry: len(reached[entry]))
        found[best] = Layer(best, frozenset(each for each in reached[best] if isinstance(each, Switch)))
    return list(found.values())


def _exactly(name: str) -> str:
    return f"re:^{re.escape(name)}$"


def _runs(name: str) -> Iterator[str]:
    """Yield every plain entry that names ``name`` (lowbit_compiler/passes/plan.py, ``matches``): the runs of its components."""
    parts = name.split(".")
    for start, stop in itertools.combinations(range(len(parts) + 1), 2):
        yield ".".join(parts[start:stop])
