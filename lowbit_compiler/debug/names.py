"""What to write into ``ignore`` so that one product is declined, and as little else as can be."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lowbit_compiler.debug.switched import Product
from lowbit_compiler.passes.plan import matches


@dataclass(frozen=True)
class Layer:
    """The products that one entry of ``ignore`` declines: usually one, more where graphs or calls share a module."""

    name: str
    products: frozenset[Product]


def layers(products: Sequence[Product], others: Iterable[str] = ()) -> list[Layer]:
    """Return for each product the entry that declines the fewest with it; ``others`` are modules that had better stay out of it.

    A plain name comes first, then an exact regular expression: the module ``0`` would name ``blocks.0`` too. Products that only a shared
    name reaches (slices of one parameter) are one layer.
    """
    found: dict[str, Layer] = {}
    others = list(others)
    for product in products:
        entries = [*product.names, *(f"re:^{re.escape(name)}$" for name in product.names)]
        if entries:
            best = min(entries, key=lambda entry: _reach(entry, products, others))
            found[best] = Layer(best, frozenset(each for each in products if _names(best, each)))
    return list(found.values())


def _names(entry: str, product: Product) -> bool:
    return any(matches(entry, name) for name in product.names)


def _reach(entry: str, products: Sequence[Product], others: list[str]) -> int:
    return sum(_names(entry, product) for product in products) + sum(matches(entry, name) for name in others)
