"""What a model of 70 and of 405 billion weights takes on many machines like this one, by the model of costs (cost.py).

python bench/scale/table.py [--recipes int8 int4-weight-only] [--out scale.json]

A rank is this machine: the layer of one rank is built at its true shapes and measured with all cores. Links are stated, not measured.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from cost import Decoder, Layout, Link, Pieces, memory, step
from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common
import ranks as measured

MODELS = {
    "Llama-3.1-70B": Decoder(8192, 28_672, 64, 8, 80, 128_256),
    "Llama-3.1-405B": Decoder(16_384, 53_248, 128, 8, 126, 128_256),
}
LAYOUTS = {
    "Llama-3.1-70B": (Layout(4, 1), Layout(8, 1), Layout(8, 2), Layout(8, 4), Layout(8, 4, 4)),
    "Llama-3.1-405B": (Layout(8, 4), Layout(8, 8), Layout(8, 16), Layout(8, 16, 4)),
}
LINKS = {"10 Gb/s": Link(30e-6, 1.1e9), "100 Gb/s": Link(8e-6, 11e9)}
BITS = {"int8": 8.05, "int4-weight-only": 5.05}
"""Of a weight with its scales (python bench/accuracy/int4.py)."""
PROMPT, CONTEXT = 512, 4096
ROUNDS = 7


def pieces(model: Decoder, tensor: int, recipe: str) -> dict[int, tuple[float, float]]:
    """Return the seconds of a rank's layer and of its part of the head, for one token and a prompt."""
    found = {}
    head = torch.randn(model.vocabulary // tensor, model.hidden, dtype=torch.bfloat16)
    last = torch.randn(1, model.hidden, dtype=torch.bfloat16)
    for tokens in (1, PROMPT):
        torch.compiler.reset()
        x = torch.randn(1, tokens, model.hidden, dtype=torch.bfloat16)
        calls = measured.layers(partial(measured.llama, model.shard(tensor)), recipe, x)
        times = measured.seconds({**calls, "head": partial(F.linear, last, head)}, ROUNDS)
        parts = measured.parted(times)
        found[tokens] = parts.layer(tokens), parts.rest(tokens) + times["head"]
    return found


def rows(name: str, recipe: str, found: dict[int, dict[int, tuple[float, float]]]) -> list[dict[str, Any]]:
    """Return what each layout takes over each link."""
    model, results = MODELS[name], []
    for layout in LAYOUTS[name]:
        mine = found[layout.tensor]
        parts = Pieces(lambda tokens, mine=mine: mine[tokens][0], lambda tokens, mine=mine: mine[tokens][1])
        for text, link in LINKS.items():
            token = step(model, layout, parts, link, 1)
            # A sequence in each stage: one comes out of the last in the time of one stage.
            full = step(model, layout, parts, link, 1 + layout.pipeline, 1 + layout.pipeline) - step(
                model, layout, parts, link, layout.pipeline, layout.pipeline
            )
            results.append(
                {
                    "model": name,
                    "recipe": recipe,
                    "layout": vars(layout),
                    "ranks": layout.tensor * layout.pipeline * layout.data,
                    "link": text,
                    "bytes": memory(model, layout, BITS[recipe], CONTEXT, layout.pipeline),
                    "token": token,
                    "tokens a second": layout.data / full,
                    "prompt": step(model, layout, parts, link, PROMPT),
                }
            )
    return results


def show(results: list[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table(title=f"a rank is this machine; context {CONTEXT}, a sequence for each stage; prompts of {PROMPT} tokens")
    for column in ("model", "recipe", "tensor x pipeline x data", "link", "GB a rank", "ms a token", "tokens/s, all", "prompt s"):
        table.add_column(column, justify="left" if column in ("model", "recipe", "link") else "right")
    for row in results:
        figures = f"{row['bytes'] / 1e9:.1f}", f"{1e3 * row['token']:.0f}", f"{row['tokens a second']:.1f}", f"{row['prompt']:.1f}"
        table.add_row(row["model"], row["recipe"], " x ".join(map(str, row["layout"].values())), row["link"], *figures)
    Console(width=140).print(table)


def main() -> None:
    """Measure layers, and print what many of them take."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recipes", nargs="+", default=list(BITS), choices=list(BITS))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--out", default="scale.json")
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    results: list[dict[str, Any]] = []
    measures: dict[str, Any] = {}
    cases = [(name, recipe) for name in args.models for recipe in args.recipes]
    for name, recipe in track(cases, "measuring layers", console=Console(stderr=True)):
        found = {tensor: pieces(MODELS[name], tensor, recipe) for tensor in sorted({layout.tensor for layout in LAYOUTS[name]})}
        measures[f"{name}, {recipe}"] = found
        results += rows(name, recipe, found)
    show(results)
    links = {name: vars(link) for name, link in LINKS.items()}
    print(common.write(args.out, {**common.about(torch.get_num_threads()), "links": links, "layers": measures, "rows": results}))


if __name__ == "__main__":
    main()
