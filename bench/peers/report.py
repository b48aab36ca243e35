"""What a run prints: a table for the terminal, one for Markdown, and a plot."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

from columns import COLUMNS, TITLES
from rich.table import Table

Row = dict[str, Any]
Result = dict[str, Any]
HEADINGS = ("contestant", "ms", "quartiles", "times as fast", "tokens/s", "J/token", "accuracy", "compile s", "cold", "peak MB")


def tokens(row: Row) -> int:
    """Return how many tokens one call of a row's case takes in."""
    return next(case for cases in COLUMNS.values() for case in cases if case.name == row["case"]).per_call


def accuracy(row: Row) -> str:
    """Return a row's accuracy in words."""
    found = row.get("accuracy", {})
    if "perplexity" in found:
        return f"perplexity {found['perplexity']:.3f}"
    if "similarity_change" in found:
        return f"similarity ±{found['similarity_change']:.4f}"
    return f"error {found['relative_error']:.1e}" if "relative_error" in found else ""


def short(number: float) -> str:
    """Return three digits of a number, or all before the point."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def lead(rows: list[Row]) -> str:
    """Return how lowbit's int8 compares with the best of the others, for each case in which both were measured; "" where nobody was."""
    lines = []
    for case in dict.fromkeys(row["case"] for row in rows):
        ratios = {row["contestant"]: row["ratio"] for row in rows if row["case"] == case and "ratio" in row}
        others = {name: ratio for name, ratio in ratios.items() if not name.startswith("lowbit")}
        best = max(others, key=others.__getitem__, default="")
        mine = [f"{name} {ratio / others[best]:.2f}" for name, ratio in ratios.items() if name.startswith("lowbit-int8") and best]
        lines += [f"{case}, times as fast as the best of the others, {best}: {', '.join(mine)}"] if mine else []
    return "\n".join(lines)


def cells(row: Row) -> list[str]:
    """Return a row's cells, in the order of the headings."""
    name = f"{row['contestant']} *" if row.get("unlimited") else row["contestant"]
    last = [f"{row[key]:.0f}" if key in row else "" for key in ("compile_s", "cold_compile_s", "peak_mb")]
    if "ms" not in row:
        return [name, "-", "", "", "", "", row.get("error", ""), *last]
    ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
    first = [short(row["ms"]), f"{short(row['lower_quartile_ms'])} {short(row['upper_quartile_ms'])}", ratio]
    rate = f"{tokens(row) / row['ms'] * 1e3:.0f}"
    joules = short(row["joules"] / tokens(row)) if "joules" in row else ""
    return [name, *first, rate, joules, row.get("error") or accuracy(row), *last]


def fastest_first(rows: list[Row]) -> list[Row]:
    """Return the rows in the order of their speed, those that failed last; cases stay in theirs."""
    order = list(dict.fromkeys(row["case"] for row in rows))
    return sorted(rows, key=lambda row: (order.index(row["case"]), -row.get("ratio", 0), row.get("ms", math.inf)))


def table(result: Result) -> Table:
    """Return a column's rows for the terminal."""
    view = Table(title=f"{TITLES[result['column']]}; times as fast as {result['base']}", title_justify="left", box=None, pad_edge=False)
    for heading in HEADINGS:
        left = heading in ("contestant", "accuracy")
        view.add_column(heading, justify="left" if left else "right", no_wrap=heading != "accuracy", overflow="fold")
    before = ""
    for row in fastest_first(result["rows"]):
        if row["case"] != before and len(COLUMNS[result["column"]]) > 1:
            view.add_section()
            view.add_row(f"[bold]{row['case']}[/bold]")
        before = row["case"]
        view.add_row(*cells(row))
    return view


def load(folder: Path, isa: str) -> list[Result]:
    """Return the results of all columns that were measured with the instruction set ``isa``."""
    paths = [folder / f"peers_{column}_{isa}.json" for column in COLUMNS]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def markdown(results: list[Result]) -> str:
    """Return one table of all model columns: milliseconds, and times as fast as the base; accuracy in the last one."""
    models = [result for result in results if result["column"] != "linear"]
    names = list(dict.fromkeys(row["contestant"] for result in models for row in fastest_first(result["rows"])))
    head = ["", *(TITLES[result["column"]] for result in models), "accuracy"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in names:
        rows = [next((r for r in result["rows"] if r["contestant"] == name), {}) for result in models]
        times = [f"{short(row['ms'])} ms ({row.get('ratio', math.nan):.2f}x)" if "ms" in row else row.get("error", "") for row in rows]
        known = [text for row in rows if (text := accuracy(row))]
        lines.append("| " + " | ".join([f"`{name}`", *times, ", ".join(known)]) + " |")
    return "\n".join(lines)


def linears(results: list[Result]) -> str:
    """Return a table of the single linears: for each number of rows, the geometric mean over shapes of times as fast as the base."""
    rows = [row for result in results if result["column"] == "linear" for row in result["rows"] if "ratio" in row]
    counts = sorted({int(row["case"].split()[0]) for row in rows})
    lines = ["| rows | " + " | ".join(map(str, counts)) + " | largest error |", "|" + "---|" * (len(counts) + 2)]
    for name in dict.fromkeys(row["contestant"] for row in rows):
        mine = [row for row in rows if row["contestant"] == name]
        ratios = [[row["ratio"] for row in mine if row["case"].startswith(f"{count} ")] for count in counts]
        error = max((row["accuracy"]["relative_error"] for row in mine if "accuracy" in row), default=math.nan)
        means = [f"{statistics.geometric_mean(some):.2f}x" if some else "" for some in ratios]
        lines.append("| " + " | ".join([f"`{name}`", *means, f"{error:.1e}"]) + " |")
    return "\n".join(lines) if rows else ""


def plot(results: list[Result], path: Path) -> None:
    """Draw a panel for each model column: how many times as fast as the base each contestant is."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    models = [result for result in results if result["column"] != "linear"]
    if not models:
        return
    wide = min(len(models), 4)
    high = math.ceil(len(models) / wide)
    figure, axes = pyplot.subplots(high, wide, figsize=(4.6 * wide, 4.6 * high), squeeze=False)
    for axis in axes.flat[len(models) :]:
        axis.axis("off")
    for axis, result in zip(axes.flat, models, strict=False):
        rows = [row for row in fastest_first(result["rows"]) if "ratio" in row][::-1]
        colors = ["#2a6fbb" if row["contestant"].startswith("lowbit") else "#b8b8b8" for row in rows]
        bars = axis.barh([row["contestant"] for row in rows], [row["ratio"] for row in rows], color=colors)
        axis.bar_label(bars, [f"{short(row['ms'])} ms" for row in rows], padding=3, fontsize=7)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.margins(x=0.2)
        axis.tick_params(labelsize=7)
        axis.set_title(TITLES[result["column"]], fontsize=9)
        axis.set_xlabel(f"times as fast as {result['base']}", fontsize=8)
    about = models[-1]["about"]
    figure.suptitle(f"{about['machine']}, torch {about['torch']}, {about['date']}", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
