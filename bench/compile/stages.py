"""What compiling a model takes, stage by stage, and its memory: from empty caches, and in a second process that finds them filled.

python bench/compile/stages.py [--model smollm2|random-1.5b] [--tokens 1] [--rounds 3] [--threads 2] [--options '{"free_weights": true}']
python bench/compile/stages_plot.py      # draws the result files

Time is from torch.compile to the first result; before, the model is loaded, and torch and lowbit are imported. Each turn is a process of its own: in
a round the first finds empty caches (Inductor's and the planner's), the second those that the first has left. A run is added to the result
file under its commit: runs of several commits, one after another on one machine, say what a change was worth. Where others work on the
machine, the processor's time is the one to trust; C++ compilers, which have processes of their own, are not in it.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common
from trees import HERE, Child

STARTS = ("cold", "warm")


def turn(arguments: Sequence[str], threads: int, folder: str) -> dict[str, Any]:
    """Return what one process answered whose caches are in ``folder``, and its commit."""
    caches = {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor", "XDG_CACHE_HOME": folder}
    child = Child(HERE, sys.executable, "stages_child.py", arguments, threads, caches)
    answer = child.turn()
    child.close()
    return answer | {"commit": child.commit}


def medians(turns: Sequence[Any]) -> Any:
    """Return the median of each number of equal answers; what is no number is of the last one."""
    last = turns[-1]
    if isinstance(last, dict):
        return {key: medians([each.get(key, 0.0) for each in turns]) for key in last}
    return round(statistics.median(turns), 3) if isinstance(last, float) else last


def table(run: dict[str, Any]) -> Table:
    """Return the results for people."""
    made = Table(title=f"seconds (the processor's); {run['warm']['summary']}", title_justify="left")
    for head in ("stage", *STARTS):
        made.add_column(head)
    for stage in run["cold"]["seconds"]:
        pairs = [(run[start]["seconds"].get(stage, 0.0), run[start]["processor"].get(stage, 0.0)) for start in STARTS]
        made.add_row(stage, *(f"{passed:.2f} ({worked:.2f})" for passed, worked in pairs))
    made.add_row("all", *(f"{sum(run[start]['seconds'].values()):.2f} ({sum(run[start]['processor'].values()):.2f})" for start in STARTS))
    for what in run["cold"]["megabytes"]:
        made.add_row(f"MB: {what}", *(f"{run[start]['megabytes'][what]:.0f}" for start in STARTS))
    return made


def main() -> None:
    """Measure, print a table, and add to the result file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=("smollm2", "random-1.5b"), default="smollm2")
    parser.add_argument("--tokens", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--options", type=json.loads, default={}, help="of the backend, as JSON")
    args = parser.parse_args()
    console = Console()
    turns: dict[str, list[dict[str, Any]]] = {start: [] for start in STARTS}
    arguments = [args.model, str(args.tokens), json.dumps(args.options)]
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for start in STARTS:
                turns[start].append(turn(arguments, args.threads, folder))
    run = {start: medians(answers) for start, answers in turns.items()}
    console.print(table(run))
    name = "_".join([f"compile_stages_{args.model}", *args.options]) + ".json"
    path = common.RESULTS / name
    runs = json.loads(path.read_text())["runs"] if path.exists() else {}
    about = common.about(args.threads, model=args.model, tokens=args.tokens, rounds=args.rounds, options=args.options)
    console.print(f"written to {common.write(name, {'about': about, 'runs': {**runs, run['cold']['commit']: run}})}")


if __name__ == "__main__":
    main()
