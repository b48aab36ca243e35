"""The files of one compiled graph in a folder of its own."""

import itertools
import json
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from lowbit_compiler.dump.diff import file_name, stage_diff
from lowbit_compiler.dump.page import page
from lowbit_compiler.dump.record import Record
from lowbit_compiler.graph_text import stage_text
from lowbit_compiler.report import Report
from lowbit_compiler.runtime.files import write

RECORD = "graph.json"
PAGE = "view.html"


def new_folder(root: Path) -> Path:
    """Make the next folder ``graph_<number>`` in ``root``, also where other processes do so at the same time."""
    root.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(sum(1 for _ in root.glob("graph_*"))):
        folder = root / f"graph_{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError


def write_stage(folder: Path, record: Record) -> None:
    """Write text and diff of the newest stage."""
    stage = len(record.stages) - 1
    write(folder / file_name(record, stage), stage_text(record.nodes_of(stage)))
    if diff := stage_diff(record, stage):
        write(folder / file_name(record, stage, "diff"), diff)


def write_rest(folder: Path, record: Record, report: str) -> None:
    """Write what needs the whole compilation: the record as JSON, the page, the report, and an index of all."""
    write(folder / "report.txt", report)
    write(folder / RECORD, record.to_json())
    write(folder / PAGE, page([record]))
    write(folder / "index.md", _index(record))


def _index(record: Record) -> str:
    rows = ["| stage | what changed | what happened | nodes |", "|---|---|---|---|"]
    for number, stage in enumerate(record.stages):
        text, diff = file_name(record, number), file_name(record, number, "diff")
        rows.append(f"| [{text}]({text}) | {f'[{diff}]({diff})' if stage.edits else ''} | {stage.note} | {len(stage.nodes)} |")
    of = f" (compilation {record.compile_id} in torch's logs)" if record.compile_id else ""
    links = f"To look around: [{PAGE}]({PAGE}). Decisions: [report.txt](report.txt). All of it as data: [{RECORD}]({RECORD})."
    return "\n".join([f"# What each pass did{of}", "", *rows, "", links, ""])


def read(folder: Path) -> Record:
    """Return the record of the graph that was dumped to ``folder``; raises FileNotFoundError, or ValueError for another schema."""
    return Record.from_dict(json.loads((folder / RECORD).read_text(encoding="utf-8")))


def attach(graphs: Iterable[Path], report: Report) -> None:
    """Let the dumps ``graphs``, of one compilation and in its order, show what ``report`` has measured of each site.

    A graph that was left in float keeps what it has.
    """
    for number, graph in enumerate(graphs):
        record = read(graph)
        if record.fallback:
            continue
        measured = [site.measured for site in report.sites if site.graph == number]
        record.sites = [replace(site, measured=each) for site, each in zip(record.sites, measured, strict=True)]
        write(graph / RECORD, record.to_json())
        write(graph / PAGE, page([record]))


def folders(root: Path, known: Collection[Path] = ()) -> list[Path]:
    """Return the folders of the graphs that were dumped to ``root``, in order, but those that are ``known``."""
    found = (path.parent for path in root.glob(f"graph_*/{RECORD}") if path.parent not in known)
    return sorted(found, key=lambda path: int(path.name.rpartition("_")[2]))
