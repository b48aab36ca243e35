"""Perplexity of SmolLM2-135M-Instruct through the compiled model, every recipe against float32, on two real texts.

python bench/accuracy/recipes.py [--tokens 6144] [--dtype float32]

The rest of the graph runs eager: the low-bit ops are the same, and no minutes go into compiling what is not measured here.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

from lowbit_compiler.demo import model, text
from lowbit_compiler.demo.perplexity import perplexity
from lowbit_compiler.recipes import RECIPES, Recipe

SCHEMES = [*RECIPES, Recipe("int8 with rows split", treatment="rows", head="same")]


def main() -> None:
    """Measure, print a table, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=text.TOKENS)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args()
    console = Console()
    reference = model.load(torch.float32, console)
    ids = {name: text.token_ids(reference.tokenizer, name, args.tokens) for name in text.TEXTS}
    loaded = reference if args.dtype == "float32" else model.load(torch.bfloat16, console)
    rows: dict[str, dict[str, float]] = {}
    with Progress(console=console) as progress:
        task = progress.add_task("perplexity", total=(len(SCHEMES) + 1 + (loaded is not reference)) * len(ids))

        def measure(name: str, run: Callable[[Tensor], Tensor]) -> None:
            rows[name] = {}
            for source, tokens in ids.items():
                rows[name][source] = perplexity(run, tokens)
                progress.advance(task)

        measure("float32", lambda x: reference.model(x, use_cache=False).logits)
        if loaded is not reference:
            measure(args.dtype, lambda x: loaded.model(x, use_cache=False).logits)
        for scheme in SCHEMES:
            torch._dynamo.reset()
            compiled = torch.compile(loaded.model, backend="lowbit", dynamic=False, options={"recipe": scheme, "remainder": "eager"})
            measure(str(getattr(scheme, "name", scheme)), lambda x, compiled=compiled: compiled(x, use_cache=False).logits)
    console.print(_table(rows, args.tokens, args.dtype))
    about = common.about(dtype=args.dtype, tokens=args.tokens)
    console.print(f"written to {common.write(f'perplexity_{args.dtype}.json', {'about': about, 'perplexity': rows})}")


def _table(rows: dict[str, dict[str, float]], tokens: int, dtype: str) -> Table:
    table = Table(title=f"perplexity on {tokens} tokens, {dtype}", title_justify="left")
    table.add_column("")
    for source in text.TEXTS:
        table.add_column(source, justify="right")
        table.add_column("change", justify="right")
    base = rows["float32"]
    for name, row in rows.items():
        cells = [cell for source in text.TEXTS for cell in (f"{row[source]:.3f}", f"{row[source] / base[source] - 1:+.2%}")]
        table.add_row(name, *cells)
    return table


if __name__ == "__main__":
    main()
