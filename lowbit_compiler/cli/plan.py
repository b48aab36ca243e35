"""The command ``lowbit plan``: what a model's calls take here, in a file that other compilations decide by."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from lowbit_compiler.compile.explaining import explain
from lowbit_compiler.errors import OptionError
from lowbit_compiler.options import PLAN_FILE, parse, writable_file
from lowbit_compiler.report import Report, SiteReport
from lowbit_compiler.runtime.files import write
from lowbit_compiler.runtime.timings import quiet
from lowbit_compiler.runtime.timings_file import text

BUSY = "the cores were not free: another process was running, so times are rough; plan again when it has ended"


def check(out: Path, recipe: str, ignore: Sequence[str]) -> None:
    """Raise OptionError for a file that cannot be written or that the option would not take, and for what the options do not accept."""
    if out.suffix != PLAN_FILE:
        raise OptionError(f"--out takes a {PLAN_FILE} file, got {str(out)!r}")
    writable_file("--out", out, parents=True)
    parse({"recipe": recipe, "ignore": list(ignore)})


def plan(
    model: Callable[..., Any], inputs: Sequence[Any], out: Path, *, recipe: str, ignore: Sequence[str], progress: Callable[[str], None]
) -> Report:
    """Time what ``model(*inputs)`` computes, or remember it, and write ``out``; the report has a note where the machine was busy."""
    progress("timing what the model computes")
    free = quiet()
    with torch.no_grad():
        report = explain(model, *inputs, recipe=recipe, ignore=list(ignore))
    if not (free and quiet()):
        report.notes.append(BUSY)
    progress("writing the file")
    write(out, text(report.timed))
    return report


def decisions(sites: Iterable[SiteReport]) -> Table:
    """Return a table with a row for each decision, however many sites it holds for."""
    table = Table(box=None, pad_edge=False)
    for name in ("sites", "first of them", "shape", "decision", "reason or op"):
        table.add_column(name, justify="right" if name == "sites" else "left", overflow="fold")
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for site in sites:
        alike[site.kind, site.shape, site.decision, site.lowered_to or site.reason, site.detail].append(site.module)
    for (_, shape, decision, what, detail), modules in alike.items():
        table.add_row(str(len(modules)), modules[0], shape, decision, ": ".join(filter(None, (what, detail))))
    return table
