"""What ``lowbit debug widths`` prints: how many layers have which bits, the layers that need most, and what the whole model lost."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from lowbit_compiler.debug.widths import Widths

SHOWN = 20


def shown(result: "Widths", most: int = SHOWN) -> Group:
    """Return the ``most`` layers of most bytes for an element, the counts of each word, and the verdict."""
    table = Table(box=None, pad_edge=False)
    for name, justify in (("layer", "left"), ("weights", "left"), ("kB", "right"), (f"alone: {result.metric.words}", "right")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for name, each in sorted(result.chosen.items(), key=lambda item: -item[1].loss)[:most]:
        table.add_row(Text(name), each.word, f"{each.nbytes / 1e3:.1f}", f"{result.metric.shown(each.loss):.2g}")
    rest = [f"and {len(result.chosen) - most} more"] if len(result.chosen) > most else []
    return Group(table, *rest, "", *(Text(line, no_wrap=True, overflow="ignore") for line in _verdict(result)))


def _verdict(result: "Widths") -> list[Any]:
    counts = Counter(each.word for each in result.chosen.values())
    words = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
    size = f"{result.nbytes / 1e6:.3f} MB ({8 * result.nbytes / result.elements:.2f} bits an element)"
    lines = [f"{len(result.chosen)} layers: {words}; {size}", f"{result.metric.words} of the compiled model: {result.reached:.5g}"]
    if result.budget is not None:
        return [*lines, f"budget {result.budget:g} {'met' if result.met else 'missed: not even the most bits of each layer are enough'}"]
    return [*lines, f"{result.most_bytes} bytes {'are enough' if result.met else 'are not enough for the fewest bits of each layer'}"]
