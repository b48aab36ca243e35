"""The tables of ``lowbit profile``."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table

TOP = 10


@dataclass(frozen=True)
class Row:
    """One op of one place, or all calls of one kernel of the rest."""

    name: str
    seconds: float
    share: float
    """Of the profiled step."""
    calls: int = 1
    kernel: str = ""
    op: str = ""
    shape: str = ""
    floor: float | None = None
    """Seconds, of all calls; None where nothing is known of the work."""


def tables(
    sites: Sequence[Row],
    rest: Sequence[Row],
    step: float,
    profiled: float,
    overhead: float,
    rounds: int,
    notes: Iterable[str],
    reasons: Mapping[str, int],
) -> Group:
    """Return the sites, their sums by kernel, the rest of the step, and what the numbers mean; without sites, why there are none."""
    ours = sum(row.seconds for row in sites)
    others = sum(row.seconds for row in rest)
    parts = [("lowbit ops", ours), ("Inductor's kernels and torch's ops", others), ("everything else", overhead)]
    below: list[Table | str] = [_rest(rest), ""] if rest else []
    why = ", ".join(f"{reason} ({count})" for reason, count in reasons.items()) or "there is none"
    above = [_sites(sites), "", _kernels(sites)] if sites else [f"no time of a rewritten site: {why}"]
    return Group(
        f"step {_ms(step)} ms, {_ms(profiled)} ms while it is recorded; medians of {rounds} rounds",
        "   ".join(f"{name} {_ms(seconds)} ms {seconds / profiled:.0%}" for name, seconds in parts),
        "",
        *above,
        "",
        *below,
        "floor: the weights at the memory's speed, the activations copied once, or the operations at this machine's peak, whichever is most.",
        "Single calls vary by a tenth or more on a shared machine, and the profiler adds some microseconds to each.",
        *(f"note: {note}" for note in notes),
    )


def _sites(sites: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("site", "op", "shape", "kernel"):
        table.add_column(name, overflow="fold")
    for name in ("ms", "share", "floor ms", "of floor"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in sites:
        name = f"{row.name} ({row.calls} calls)" if row.calls > 1 else row.name
        table.add_row(name, row.op, row.shape, row.kernel, *_numbers(row))
    return table


def _kernels(sites: Sequence[Row]) -> Table:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in sites:
        groups[row.kernel].append(row)
    table = Table(box=None, pad_edge=False)
    table.add_column("all sites of a kernel")
    for name in ("sites", "ms", "share", "floor ms", "of floor"):
        table.add_column(name, justify="right", no_wrap=True)
    for kernel, rows in sorted(groups.items(), key=lambda item: -sum(row.seconds for row in item[1])):
        known = [row.floor for row in rows if row.floor is not None]
        total = Row(kernel, sum(row.seconds for row in rows), sum(row.share for row in rows), floor=sum(known) if known else None)
        table.add_row(kernel, str(len(rows)), *_numbers(total))
    return table


def _rest(rest: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("the rest", overflow="fold")
    for name in ("calls", "ms", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rest[:TOP]:
        table.add_row(row.name, str(row.calls), *_numbers(row)[:2])
    if more := rest[TOP:]:
        total = Row("", sum(row.seconds for row in more), sum(row.share for row in more))
        table.add_row(f"{len(more)} more", str(sum(row.calls for row in more)), *_numbers(total)[:2])
    return table


def _numbers(row: Row) -> tuple[str, str, str, str]:
    floor = ("", "") if row.floor is None else (_ms(row.floor), f"{row.seconds / row.floor:.1f}x" if row.floor else "")
    return _ms(row.seconds), f"{row.share:.1%}", *floor


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}" if seconds < 0.01 else f"{seconds * 1e3:.1f}"
