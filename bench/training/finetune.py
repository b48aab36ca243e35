"""Accuracy of a sentence encoder after fine-tuning in float32, bfloat16 and with recipes: MiniLM on the task of ``lowbit demo --train``.

python bench/training/finetune.py [--seeds 3] [--steps 120] [--recipes float32 bfloat16 int8-training int4-training]

Every run that ends is written to the result file at once; a call takes up where another one was stopped. A seed draws the head, the
order of the paragraphs and the noise, and is the same for all recipes, so that their differences are counted seed by seed.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

from lowbit_compiler.demo.finetune import BATCH, LENGTH, STEPS, Task, Training, compiled

FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
RECIPES = (*FLOATS, "int8-training", "int4-training")
BASE = "float32"


def cast(model: nn.Module, dtype: torch.dtype) -> Callable[..., Tensor]:
    """Return ``model`` with its products in ``dtype``: float32 weights under autocast."""

    def run(*args: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is not torch.float32):
            logits: Tensor = model(*args)
        return logits

    return run


def trained(task: Task, recipe: str, seed: int, steps: int) -> dict[str, Any]:
    """Fine-tune one model; returns the share of held-out paragraphs that it tells right, and its losses."""
    torch.compiler.reset()
    model = task.student(seed)
    run = cast(model, FLOATS[recipe]) if recipe in FLOATS else compiled(model, recipe)
    training, start = Training(model, run, steps), time.perf_counter()
    for batch in task.batches(seed, steps):
        training.step(batch)
    seconds = time.perf_counter() - start
    return {"accuracy": training.accuracy(task.held), "curve": training.curve[:: max(steps // 60, 1)], "seconds": seconds}


def main() -> None:
    """Train what is not in the result file yet, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    args = parser.parse_args()
    name = f"training_finetune-{args.steps}.json"
    path = common.RESULTS / name
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"runs": {}}
    task = Task()
    sizes = {"learned": len(task.learned.ids), "held": len(task.held.ids), "batch": BATCH, "tokens": LENGTH, "steps": args.steps}
    found = common.about(torch.get_num_threads(), model="all-MiniLM-L6-v2", **sizes) | {"runs": found["runs"]}
    for seed in range(args.seeds):
        for recipe in args.recipes:
            if (key := f"{recipe} seed {seed}") not in found["runs"]:
                found["runs"][key] = trained(task, recipe, seed, args.steps)
                common.write(name, found)
                print(key, f"{100 * found['runs'][key]['accuracy']:.1f} %", f"{found['runs'][key]['seconds']:.0f} s", flush=True)
    Console(width=120).print(table(found["runs"], args))


def table(runs: dict[str, Any], args: argparse.Namespace) -> Table:
    """Return the accuracies, and what they are above float32's with the same seed."""
    made = Table(title=f"% of held-out paragraphs told right after {args.steps} steps, mean of the seeds")
    for column in ("recipe", "seeds", "accuracy", f"above {BASE}", "from seed to seed"):
        made.add_column(column, justify="left" if column == "recipe" else "right")
    for recipe in args.recipes:
        mine = {seed: runs[key]["accuracy"] for seed in range(args.seeds) if (key := f"{recipe} seed {seed}") in runs}
        above = [value - runs[key]["accuracy"] for seed, value in mine.items() if (key := f"{BASE} seed {seed}") in runs]
        spread = f"{100 * stdev(above):.1f}" if len(above) > 1 else ""
        gain = f"{100 * fmean(above):+.1f}" if above else ""
        if mine:
            made.add_row(recipe, str(len(mine)), f"{100 * fmean(mine.values()):.1f}", gain, spread)
    return made


if __name__ == "__main__":
    main()
