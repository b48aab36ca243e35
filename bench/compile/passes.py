"""Compile time of SmolLM2-135M-Instruct's passes, this tree against another one in one interleaved run.

python bench/compile/passes.py --against TREE [--rounds 5] [--recipe int8] [--threads 1]

TREE is another checkout with its own environment, TREE/.venv. Nothing is compiled, timed or packed (plan="always", ``explain``): what is
measured is the sum of the passes, and all of ``explain``: Dynamo, capture, the passes and one run of 8 tokens in float. Where others
work on the machine, the processor's time is the one to trust.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common
from trees import both, measure

MEASURED = {"passes": "the passes", "explain": "capture and passes", "processor": "the same, processor time"}


def seconds(answer: dict[str, Any], what: str) -> float:
    """Return the seconds of one turn."""
    return sum(each for _, each in answer["passes"]) if what == "passes" else float(answer[what])


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return the median with the extremes."""
    return {"median": round(statistics.median(values), 4), "least": round(min(values), 4), "most": round(max(values), 4)}


def by_pass(answers: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the median seconds of each pass, in their order; a graph's passes of one name add up."""
    turns = []
    for answer in answers:
        total: dict[str, float] = defaultdict(float)
        for name, each in answer["passes"]:
            total[name] += each
        turns.append(total)
    return {name: round(statistics.median(turn[name] for turn in turns), 4) for name in turns[0]}


def compared(answers: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return what the result file says of each measure: seconds of both trees, and this one's over the other's within a round."""
    result: dict[str, Any] = {}
    for what in MEASURED:
        times = {name: [seconds(answer, what) for answer in rows] for name, rows in answers.items()}
        ratios = [here / there for here, there in zip(times["here"], times["against"], strict=True)]
        result[what] = {**{name: summary(values) for name, values in times.items()}, "ratio": summary(ratios)}
    return result


def table(result: dict[str, Any], commits: dict[str, str]) -> Table:
    """Return the results for people."""
    made = Table(title="seconds: median (least to most)", title_justify="left")
    for head in ("", f"against: {commits['against']}", f"here: {commits['here']}", "here / against, within a round"):
        made.add_column(head)
    for what, text in MEASURED.items():
        rows = [result[what][name] for name in ("against", "here", "ratio")]
        made.add_row(text, *(f"{row['median']:.3f} ({row['least']:.3f} to {row['most']:.3f})" for row in rows))
    return made


def main() -> None:
    """Measure, print a table, and write the result file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", type=Path, required=True, help="another checkout, with an environment in .venv")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--recipe", default="int8")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    console = Console()
    children = both(args.against, "passes_child.py", [args.recipe], args.threads)
    answers = measure(children, args.rounds, console)
    commits = {name: child.commit for name, child in children.items()}
    result = compared(answers)
    console.print(table(result, commits))
    about = common.about(args.threads, model="SmolLM2-135M-Instruct", recipe=args.recipe, rounds=args.rounds, trees=commits)
    counts = {name: rows[-1]["rewritten"] for name, rows in answers.items()}
    content = {"about": about, "seconds": result, "rewritten": counts, "by_pass": {name: by_pass(rows) for name, rows in answers.items()}}
    console.print(f"written to {common.write('compile_passes.json', content)}")


if __name__ == "__main__":
    main()
