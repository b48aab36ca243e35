"""Validation loss of a small Llama after training with each recipe, beside bfloat16, on Python's own documentation and source, byte by byte.

python bench/training/convergence.py [--steps 500] [--seeds 3] [--width 256] [--layers 5] [--recipes bfloat16 int8-training ...]

Every run that ends is written to the result file at once; a call takes up where another one was stopped.
"""

import argparse
import json
import math
import os
import pydoc_data.topics
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

from lowbit_compiler.runtime.formats import Operand, Row
from lowbit_compiler.runtime.formats.s8 import S8
from lowbit_compiler.runtime.rounding import NEAREST, STOCHASTIC
from lowbit_compiler.runtime.training.backward import Folded
from lowbit_compiler.runtime.training.plan import TrainingPlan
from lowbit_compiler.runtime.training.plans import PLANS

FLOAT, EXACT = "bfloat16", "float32"
"""What there is without a recipe: under autocast, and not."""
HEADS, CONTEXT, BATCH = 4, 128, 8
WARM, RATE, DECAY = 20, 2e-3, 0.1
INT4 = PLANS["int4-training"]
WIDE = Folded(Operand(S8(), Row(), STOCHASTIC))
NEAR = Folded(replace(INT4.grad_input.gradient, rounding=NEAREST))  # type: ignore[attr-defined]
PLANS["int4, 8-bit gradients"] = TrainingPlan(INT4.forward, WIDE, WIDE)
PLANS["int4, nearest gradients"] = TrainingPlan(INT4.forward, NEAR, NEAR)
RECIPES = (FLOAT, EXACT, *PLANS, "float-training(4, 3)")


class Block(nn.Module):
    """Attention with rotary positions, and a gated feed-forward part."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 8 * width // 3 // 32 * 32
        self.first, self.second = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up, self.down = (nn.Linear(*sizes, bias=False) for sizes in ((width, hidden), (width, hidden), (hidden, width)))

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        y = self.first(x)
        q, k, v = (each(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for each in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(turned(q, turn), turned(k, turn), v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).flatten(2))
        y = self.second(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def turned(x: Tensor, turn: Tensor) -> Tensor:
    """Turn pairs of elements by an angle for each position."""
    a, b = x.chunk(2, -1)
    cos, sin = turn[0].to(x), turn[1].to(x)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Llama(nn.Module):
    """Bytes in, a distribution over the next one out."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embedding, self.blocks = nn.Embedding(256, width), nn.ModuleList(Block(width) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, 256, bias=False)
        for weight in self.parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, std=0.02)
        half = width // HEADS // 2
        angles = torch.arange(CONTEXT).unsqueeze(1) * 10_000.0 ** (-torch.arange(half) / half)
        self.register_buffer("turn", torch.stack([angles.cos(), angles.sin()]), persistent=False)

    def forward(self, text: Tensor) -> Tensor:
        x = self.embedding(text)
        for block in self.blocks:
            x = block(x, self.turn)
        return self.head(self.norm(x))


def text() -> Tensor:
    """Return Python's topics of help and the sources beside os, as bytes."""
    topics = [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]
    sources = [path.read_text(errors="ignore") for path in sorted(Path(os.__file__).parent.glob("*.py"))]
    return torch.frombuffer(bytearray("\n\n".join(topics + sources).encode()), dtype=torch.uint8)


def batch(data: Tensor, generator: torch.Generator) -> Tensor:
    """Return [BATCH, CONTEXT + 1] bytes."""
    starts = torch.randint(0, len(data) - CONTEXT - 1, (BATCH,), generator=generator)
    return torch.stack([data[i : i + CONTEXT + 1] for i in starts.tolist()]).long()


def loss_of(run: Callable[[Tensor], Tensor], words: Tensor, exact: bool = False) -> Tensor:
    """Return the mean loss of the next byte."""
    with torch.autocast("cpu", torch.bfloat16, enabled=not exact):
        return F.cross_entropy(run(words[:, :-1]).float().flatten(0, 1), words[:, 1:].flatten())


def train(recipe: str, seed: int, args: argparse.Namespace, data: Tensor) -> dict[str, Any]:
    """Train one model; returns its losses."""
    torch.compiler.reset()
    torch.manual_seed(seed)
    model = Llama(args.width, args.layers)
    run: Any = (
        model
        if recipe in (FLOAT, EXACT)
        else torch.compile(model, backend="lowbit", options={"recipe": recipe, "remainder": "eager", "plan": "always"})
    )
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.95), weight_decay=DECAY)
    split = len(data) * 95 // 100
    generator, start = torch.Generator().manual_seed(1000 + seed), time.perf_counter()
    curve = []
    for step in range(args.steps):
        rate = RATE * min(1.0, (step + 1) / WARM) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(run, batch(data[:split], generator), recipe == EXACT)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        curve.append(loss.item())
    seconds, held = time.perf_counter() - start, torch.Generator().manual_seed(7)
    with torch.no_grad():  # the weights as they were learned, in bfloat16: what the gradients were worth; and as the recipe multiplies them
        words = [batch(data[split:], held) for _ in range(args.validation)]
        evaluated = [torch.stack([loss_of(each, one, recipe == EXACT) for one in words]).mean().item() for each in (run, model)]
    return {"loss": evaluated[0], "as bfloat16": evaluated[1], "curve": curve[:: max(args.steps // 50, 1)], "seconds": seconds}


def main() -> None:
    """Train what is not in the result file yet, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, default in {"steps": 500, "seeds": 3, "width": 256, "layers": 5, "validation": 24}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--recipes", nargs="+", default=RECIPES, choices=RECIPES)
    args = parser.parse_args()
    path = Path(__file__).resolve().parents[1] / f"results/training-{args.width}x{args.layers}-{args.steps}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"runs": {}}
    found |= {"machine": common.about(), "parameters": sum(p.numel() for p in Llama(args.width, args.layers).parameters())}
    data = text()
    for seed in range(args.seeds):
        for recipe in args.recipes:
            if (name := f"{recipe} seed {seed}") not in found["runs"]:
                found["runs"][name] = train(recipe, seed, args, data)
                path.write_text(json.dumps(found, indent=1) + "\n")
                print(name, found["runs"][name]["loss"], f"{found['runs'][name]['seconds']:.0f} s", flush=True)
    show(found["runs"], args)


def show(runs: dict[str, Any], args: argparse.Namespace) -> None:
    """Print losses and what they are above bfloat16's: the mean of the seeds, and its standard error."""
    table = Table(title=f"validation loss after {args.steps} steps of {BATCH * CONTEXT} bytes, mean of the seeds")
    for column in ("recipe", "seeds", "loss", "above bfloat16", "weights in bfloat16"):
        table.add_column(column, justify="left" if column == "recipe" else "right")
    for recipe in RECIPES:
        mine = {seed: runs[f"{recipe} seed {seed}"] for seed in range(args.seeds) if f"{recipe} seed {seed}" in runs}
        both = [seed for seed in mine if f"{FLOAT} seed {seed}" in runs]
        if mine:
            loss, plain = (sum(run[key] for run in mine.values()) / len(mine) for key in ("loss", "as bfloat16"))
            above = [mine[seed]["loss"] / runs[f"{FLOAT} seed {seed}"]["loss"] - 1 for seed in both]
            error = f" ± {100 * statistics.stdev(above) / math.sqrt(len(above)):.2f}" if len(above) > 1 else ""
            table.add_row(
                recipe, str(len(mine)), f"{loss:.4f}", f"{100 * sum(above) / len(above):+.2f}{error} %" if above else "", f"{plain:.4f}"
            )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    main()
