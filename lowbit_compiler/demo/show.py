"""What the demo prints of a compilation: sites in short, weight memory, times."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import torch
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from lowbit_compiler.report import Report


@contextmanager
def waiting(console: Console, text: str) -> Iterator[None]:
    """A spinner with a clock, for steps that cannot say how far they are; into a file, one line."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with _progress(console, text, *columns):
        yield


@contextmanager
def counting(console: Console, text: str) -> Iterator[Progress]:
    """A bar; the caller moves its only task. Into a file, one line."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with _progress(console, text, *columns) as progress:
        yield progress


@contextmanager
def _progress(console: Console, text: str, *columns: ProgressColumn) -> Iterator[Progress]:
    if not console.is_terminal:
        console.print(f"{text} ...")
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    progress.add_task(text, total=None)
    with progress:
        yield progress


def milliseconds(times: list[float]) -> str:
    """The median, or a dash."""
    return f"{median(times) * 1e3:.1f}" if times else "-"


def weight_bytes(model: torch.nn.Module) -> int:
    """Bytes of all parameters, tied ones counted once."""
    return sum(parameter.nbytes for parameter in model.parameters())


def sites(report: Report) -> RenderableType:
    """How many sites became which op or stayed float for which reason: a line each, not a row for every site."""
    table = Table(box=None, pad_edge=False)
    for name in ("sites", "kind", "decision", "op or reason", "kernel"):
        table.add_column(name, justify="right" if name == "sites" else "left", overflow="fold")
    rows = Counter((s.kind, s.decision, s.lowered_to if s.decision == "rewritten" else s.reason, s.kernel) for s in report.sites)
    for (kind, decision, why, kernel), count in sorted(rows.items(), key=lambda row: (row[0][1] != "rewritten", -row[1])):
        table.add_row(str(count), kind, decision, why, kernel)
    return table
