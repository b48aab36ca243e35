"""Is any model slower with lowbit than with Inductor alone? The small models of the tests, of many families, both compiled, taking turns.

    python bench/models/families.py [--cases gpt2,bert] [--rounds 15]      # LOWBIT_ISA=avx2 for another instruction set

They are tiny, so calls and wrappers count for most of the time: the hardest case for the promise "never slower".
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests")]
import common

from helpers import zoo
from helpers.case import Case
from lowbit_compiler.runtime import library

AT_LEAST = 0.02  # seconds of a turn
ALLOWED = 0.97  # of Inductor's speed


def main() -> None:
    """Measure, print a table, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="", help=f"of {', '.join(case.name for case in zoo.CASES)}; default: all")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    console = Console()
    asked = [name for name in args.cases.split(",") if name]
    if unknown := set(asked) - {case.name for case in zoo.CASES}:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(case.name for case in zoo.CASES)}")
    cases = [case for case in zoo.CASES if not asked or case.name in asked]
    rows = [_row(case, args.rounds) for case in track(cases, "models", console=console, transient=True)]
    about = common.about(rounds=args.rounds, statistic="medians over rounds")
    console.print(_table(rows))
    slower = [row["case"] for row in rows if row.get("ratio", 1) < ALLOWED]
    console.print(f"slower than {ALLOWED} of Inductor: {', '.join(slower) or 'none'}")
    if not asked:
        console.print(f"written to {common.write(f'families_{library.status().isa}.json', {'about': about, 'rows': rows})}")


def _row(case: Case, rounds: int) -> dict[str, Any]:
    torch.compiler.reset()  # models share code, and Dynamo compiles one code for eight of them at most
    model, inputs = case.make()
    try:
        with torch.inference_mode():
            runs = {
                "inductor": _compiled(model, inputs, backend="inductor"),
                "lowbit": _compiled(model, inputs, backend="lowbit", options={"recipe": case.recipe}),
            }
            times = common.interleaved(runs, rounds, AT_LEAST)
    except Exception as error:  # a row says why, and the others still run
        return {"case": case.name, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
    medians = {f"{name}_us": statistics.median(seconds) * 1e6 for name, seconds in times.items()}
    ratio = statistics.median(a / b for a, b in zip(times["inductor"], times["lowbit"], strict=True))
    return {"case": case.name, "recipe": case.recipe, **medians, "ratio": ratio}


def _compiled(model: torch.nn.Module, inputs: dict[str, Any], **options: Any) -> Callable[[], object]:
    compiled = torch.compile(model, dynamic=False, **options)
    return lambda: compiled(**inputs)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("model", "recipe", "Inductor us", "lowbit us", "times as fast"):
        table.add_column(name, justify="left" if name in ("model", "recipe") else "right")
    for row in sorted(rows, key=lambda row: row.get("ratio", 0)):
        if "error" in row:
            table.add_row(row["case"], row["error"])
        else:
            table.add_row(row["case"], row["recipe"], f"{row['inductor_us']:.0f}", f"{row['lowbit_us']:.0f}", f"{row['ratio']:.2f}")
    return table


if __name__ == "__main__":
    main()
