"""What ``lowbit debug accuracy`` prints: the ranking, the budget, and the line to paste."""

import contextlib
import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from lowbit_compiler.report import cell, ratio

if TYPE_CHECKING:
    from lowbit_compiler.debug.gradients import Gradients
    from lowbit_compiler.debug.layers import Accuracy
    from lowbit_compiler.debug.study import Progress

SHOWN = 20


def shown(result: "Accuracy", most: int = SHOWN) -> Group:
    """Return the ``most`` worst layers, what the budget needs, and how to compile with it."""
    lines: list[Any] = [_table(result, most)] if result.layers else ["no product is low-bit with these options: nothing to rank"]
    if len(result.layers) > most:
        lines.append(f"and {len(result.layers) - most} more")
    broken = [layer.name for layer in result.layers if layer.broken]
    if broken:
        lines.append(Text(f"error above its bound, so a kernel or a packed weight is wrong: {', '.join(broken)}", style="bold red"))
    return Group(*lines, "", *(Text(line, no_wrap=True, overflow="ignore") for line in _verdict(result)))


def gradients(result: "Gradients", most: int | None = None) -> Group:
    """Return the ``most`` products whose gradient points least where it should, and what the columns are."""
    table = Table(box=None, pad_edge=False)
    for name in ("layer", "product", "bias", "variance", "cosine"):
        table.add_column(name, justify="left" if name in ("layer", "product") else "right", overflow="fold")
    for row in sorted(result.rows, key=lambda row: (math.isnan(row.cosine), row.cosine))[:most]:
        table.add_row(Text(row.module), row.product, f"{row.bias:.2%}", f"{row.variance:.2g}", f"{row.cosine:.6f}")
    more = [] if most is None or len(result.rows) <= most else [f"and {len(result.rows) - most} more"]
    words = (
        f"{result.recipe}, {result.seeds} seeds: bias |E g - exact| / |exact|, variance E |g - E g|^2 / |exact|^2, cosine of g and exact"
    )
    return Group(table, *more, "", Text(words))


@contextlib.contextmanager
def bar() -> "Iterator[Progress]":
    """Show how far the stages of long work are, on the error stream."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as line:
        task = line.add_task("starting", total=None)
        yield lambda stage, done, total: line.update(task, description=stage, completed=done, total=total or None)


def plain(result: Any) -> str:
    """Return what is printed of ``result`` as plain text."""
    out = io.StringIO()
    Console(file=out, width=180).print(result, crop=False)
    return out.getvalue()


def _table(result: "Accuracy", most: int) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("layer", overflow="fold")
    table.add_column("op", overflow="fold")
    for name in ("effect", "SQNR dB", "cosine", "max error", "bound", "error/bound", "weight"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in result.layers[:most]:
        row = layer.measured
        mark = "float" if layer.name in result.ignored else ""
        numbers = (
            cell(row.sqnr, ".1f"),
            cell(row.cosine, ".6f"),
            cell(row.error, ".2g"),
            cell(row.bound, ".2g"),
        )
        ratios = (ratio(row.tightness), ratio(row.weight_tightness))
        table.add_row(mark, Text(layer.name), layer.op.removeprefix("lowbit::"), cell(row.effect, ".2%"), *numbers, *ratios)
    return table


def _verdict(result: "Accuracy") -> list[str]:
    def said(value: float, change: float) -> str:
        return f"{value:.5g} ({change:+.3%})" if result.kind != "relative error" else f"{value:.3%}"

    float_model = "" if result.kind == "relative error" else f"float {result.before:.5g}, "
    lines = [f"{result.kind}: {float_model}low-bit {said(result.low.value, result.low.change)}, budget {result.budget:.3%}"]
    if result.reached is None:
        return [*lines, "not even all layers in float meet the budget: what is left is rounding in float, softmax or attention"]
    count = len(result.ignored)
    lines.append(f"with {count} of {len(result.layers)} layers in float, compiled: {said(result.reached.value, result.reached.change)}")
    if not result.met:
        lines.append("the budget is missed: the compiled model differs from what the search ran")
    return [*lines, f'torch.compile(model, backend="lowbit", options={result.options!r})']
