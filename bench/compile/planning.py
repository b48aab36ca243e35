"""What the planner itself takes on SmolLM2-135M-Instruct, and how often it decides the same: this tree against another one, in turns.

python bench/compile/planning.py --against TREE [--rounds 8] [--recipe int8] [--threads 1] [--tokens 1 32 512]

TREE is another checkout with its own environment, TREE/.venv. Two layers are planned from an empty cache of timings, nothing is compiled: a
group is what is timed at once. Where others work on the machine, the processor's time is the one to trust. Two rounds agree on a site where both give it the same op, or both leave it in float.
"""

import argparse
import itertools
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common
from trees import both, measure


def agreement(ops: Sequence[Sequence[str]]) -> float:
    """Return the share of sites on which two rounds agree, over all pairs of rounds."""
    same = [a == b for one, other in itertools.combinations(ops, 2) for a, b in zip(one, other, strict=True)]
    return statistics.mean(same)


def spread(times: Sequence[float]) -> dict[str, float]:
    """Return the median of the rounds, with the extremes."""
    return {"median": round(statistics.median(times), 1), "least": round(min(times), 1), "most": round(max(times), 1)}


def result(turns: Sequence[dict[str, Any]], tokens: str) -> dict[str, Any]:
    """Return what one tree showed at one length: milliseconds of a group, the processor's too, groups, and the agreement."""
    means = [[1e3 * statistics.mean(times) for times in zip(*turn[tokens]["groups"], strict=True)] for turn in turns]
    passed, worked = zip(*means, strict=True)
    return {
        "milliseconds": spread(passed),
        "processor": spread(worked),
        "groups": len(turns[0][tokens]["groups"]),
        "agreement": round(agreement([turn[tokens]["ops"] for turn in turns]), 3),
    }


def table(results: dict[str, dict[str, Any]], commits: dict[str, str]) -> Table:
    """Return the results for people."""
    made = Table(title="milliseconds of a group: median (least to most)", title_justify="left")
    for head in ("tokens", "tree", "groups", "time", "processor's time", "decisions that agree"):
        made.add_column(head)
    for tokens, trees in results.items():
        for name, row in trees.items():
            spreads = (row["milliseconds"], row["processor"])
            times = [f"{each['median']:.0f} ({each['least']:.0f} to {each['most']:.0f})" for each in spreads]
            made.add_row(tokens, f"{name}: {commits[name]}", str(row["groups"]), *times, f"{row['agreement']:.1%}")
    return made


def main() -> None:
    """Measure, print a table, and write the result file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", type=Path, required=True, help="another checkout, with an environment in .venv")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--recipe", default="int8")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", nargs="+", default=["1", "32", "512"])
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error("--rounds: at least 2, whose decisions are compared")
    console = Console()
    children = both(args.against, "planning_child.py", [args.recipe, *args.tokens], args.threads)
    answers = measure(children, args.rounds, console)
    commits = {name: child.commit for name, child in children.items()}
    results = {tokens: {name: result(turns, tokens) for name, turns in answers.items()} for tokens in args.tokens}
    console.print(table(results, commits))
    about = common.about(args.threads, model="SmolLM2-135M-Instruct", recipe=args.recipe, rounds=args.rounds, trees=commits)
    console.print(f"written to {common.write('compile_planning.json', {'about': about, 'tokens': results})}")


if __name__ == "__main__":
    main()
