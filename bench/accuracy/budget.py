"""`lowbit debug accuracy` on the whole of SmolLM2: the list for a budget of perplexity, fed back, and a spoiled layer, which must come first.

python bench/accuracy/budget.py [--recipe int8-vector] [--budget 0.003] [--tokens 4096]
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "bench"), str(ROOT / "tests")]
import common

from helpers.spoiled import spoiled
from lowbit_compiler.debug import Accuracy, accuracy
from lowbit_compiler.debug.show import bar
from lowbit_compiler.demo import model, text
from lowbit_compiler.demo.perplexity import perplexity

WINDOW = 512
SPOILED, FACTOR = "model.layers.17.mlp.up_proj", 1.5


def main() -> None:
    """Run both, print what was found, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recipe", default="int8-vector")
    parser.add_argument("--budget", type=float, default=0.003)
    parser.add_argument("--tokens", type=int, default=8 * WINDOW)
    args = parser.parse_args()
    console = Console()
    loaded = model.load(torch.bfloat16, console)
    ids = text.token_ids(loaded.tokenizer, "english", args.tokens)
    options = {"recipe": args.recipe, "plan": "always", "remainder": "eager"}

    start = time.perf_counter()
    with spoiled(loaded.model.get_submodule(SPOILED).weight, FACTOR):
        bad = search(loaded.model, [{"input_ids": ids[:, :WINDOW], "use_cache": False}], 10.0, options)
    console.print(f"scales of {SPOILED} times {FACTOR}: {bad.layers[0].name} comes first ({time.perf_counter() - start:.0f} s)")

    start = time.perf_counter()
    samples = [{"input_ids": window, "labels": window, "use_cache": False} for window in ids.split(WINDOW, 1)]
    found = search(loaded.model, samples, args.budget, options)
    seconds = time.perf_counter() - start
    console.print(found)
    torch._dynamo.reset()
    compiled = torch.compile(loaded.model, backend="lowbit", options=found.options)
    before, after = (perplexity(lambda x, run=run: run(x, use_cache=False).logits, ids) for run in (loaded.model, compiled))
    console.print(
        f"fed back: perplexity {before:.4f} -> {after:.4f} ({after / before - 1:+.3%}, budget {args.budget:.3%}); {seconds:.0f} s"
    )
    row = {
        "spoiled": {"layer": SPOILED, "factor": FACTOR, "first": bad.layers[0].name},
        "layers": len(found.layers), "left in float": found.ignored, "seconds": seconds,
        "perplexity": {"float": before, "low-bit": found.low.value, "fed back": after}, "budget": args.budget,
    }  # fmt: skip
    about = common.about(recipe=args.recipe, tokens=args.tokens, dtype="bfloat16")
    console.print(f"written to {common.write(f'budget_{args.recipe}.json', {'about': about, **row})}")


def search(model: Any, samples: list[dict[str, Any]], budget: float, options: dict[str, Any]) -> Accuracy:
    """Return what ``lowbit debug accuracy`` finds, with its progress on the error stream."""
    with bar() as progress:
        return accuracy(model, samples, budget=budget, progress=progress, **options)


if __name__ == "__main__":
    main()
