"""Recipes of few bits on real models: bits of a weight, divergence from the float model, and what becomes of the perplexity.

    python bench/accuracy/int4.py [--models smollm2-off ...] [--only WORD ...] [--tokens 6144] [--threads 2]

Each recipe is compiled by torch.compile(backend="lowbit"), the rest of the graph eager; the head stays in float. The divergence is the mean
Kullback-Leibler divergence of the next token's distribution from the float model's, in nats times 100. Bits are those of codes, scales and
whatever else is stored, over all weights that are in low precision. A run that was cut off goes on where it stopped: a row is kept with the
machine and versions it was measured with, and measured anew where these differ.
"""

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from subjects import SUBJECTS, UNCOUNTED, Sample, Subject
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

import lowbit_compiler
from lowbit_compiler.recipes import Recipe

FILE = "int4.json"
ROOM = 1 << 30
"""Numbers of the float model's logits that are kept."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Scheme:
    """A recipe, and the name of the data it is prepared with; "" for none, "self" for text that the model writes."""

    recipe: Recipe
    data: str = ""

    @property
    def name(self) -> str:
        """As in the table."""
        return f"{self.recipe.name}, {self.data}" if self.data else self.recipe.name


def _weights(word: str, *groups: int) -> list[Scheme]:
    names = {group: f"{word} g{group}" if len(groups) > 1 else word for group in groups}
    return [Scheme(Recipe(name, weights=word, activations="float", group_size=group)) for group, name in names.items()]


SCHEMES = [
    *_weights("int4", 32, 64, 128),
    *_weights("int4-nested", 32, 64),
    *_weights("int4-symmetric", 32, 64),
    *(scheme for bits in (2, 3, 5, 6) for scheme in _weights(f"int{bits}", 32)),
    *_weights("int8", 64),
    Scheme(Recipe("int8 x int8", treatment="rotation")),
    *_weights("mxfp4", 32),
    *_weights("nvfp4", 32),
]


class Measure:
    """Runs a subject's model; every run is compared with the float model's logits, of which as many are kept as there is room for."""

    def __init__(self, subject: Subject, progress: Progress) -> None:
        self.subject, self.progress = subject, progress
        self.total = sum(len(samples) for samples in subject.texts.values())
        self._kept: dict[int, Tensor] = {}
        self._room = ROOM

    def _wanted(self, index: int, sample: Sample) -> Tensor:
        """Return the float model's logits."""
        if index in self._kept:
            return self._kept[index]
        logits: Tensor = self.subject.network(**sample.inputs).logits
        if logits.numel() <= self._room:
            self._kept[index] = logits
            self._room -= logits.numel()
        return logits

    @torch.no_grad()
    def row(self, scheme: Scheme) -> Row:
        """Return one row of the result file."""
        torch._dynamo.reset()
        network, seconds = self.subject.network, 0.0
        if scheme.data:
            start = time.perf_counter()
            network = lowbit_compiler.prepare(network, scheme.recipe, "self" if scheme.data == "self" else self.subject.calibration)
            seconds = time.perf_counter() - start
        low = torch.compile(network, backend="lowbit", dynamic=False, options={"recipe": scheme.recipe, "remainder": "eager"})
        task = self.progress.add_task(scheme.name, total=self.total)
        sums: dict[str, Tensor] = {}
        for index, (name, sample) in enumerate(self.subject.each()):
            wanted, got = self._wanted(index, sample), low(**sample.inputs).logits
            for one in zip(wanted, got, sample.labels, strict=True):
                sums[name] = sums.get(name, torch.zeros(4, dtype=torch.float64)) + _compared(*one)
            self.progress.advance(task)
        self.progress.remove_task(task)
        report = lowbit_compiler.last_report()
        modules = {site.module for site in report.sites if site.kind == "linear" and site.decision != "declined"}
        return {"bits": _bits(network, modules, scheme.recipe), "layers": len(modules), "seconds": seconds} | {
            name: _summary(total) for name, total in sums.items()
        }


def _compared(wanted: Tensor, got: Tensor, labels: Tensor) -> Tensor:
    """Return tokens, their loss in float and in low precision, and the divergence, each added up: float64 [4]."""
    counted = labels != UNCOUNTED
    wanted, got = (torch.log_softmax(logits[counted].float(), -1) for logits in (wanted, got))
    labels = labels[counted]
    losses = [-logs.gather(1, labels[:, None]).double().sum() for logs in (wanted, got)]
    divergence = (wanted.exp() * (wanted - got)).sum(-1).double().sum()
    return torch.stack([torch.tensor(float(len(labels)), dtype=torch.float64), *losses, divergence])


def _summary(total: Tensor) -> dict[str, float]:
    tokens, wanted, got, divergence = total.tolist()
    return {
        "tokens": tokens,
        "perplexity": math.exp(got / tokens),
        "change, percent": 100 * math.expm1((got - wanted) / tokens),
        "divergence x 100": 100 * divergence / tokens,
    }


def _bits(network: Any, modules: set[str], recipe: Recipe) -> float:
    shapes = [network.get_submodule(name).weight.shape for name in sorted(modules)]
    operand = recipe.plan.w
    return 8 * sum(n * operand.row_bytes(k) for n, k in shapes) / sum(n * k for n, k in shapes)


def table(rows: dict[str, Row], title: str) -> Table:
    """Return the rows of one model as they are printed."""
    result = Table(title=title, title_justify="left")
    texts = [name for name, value in next(iter(rows.values())).items() if isinstance(value, dict) and "perplexity" in value]
    for column in ("", "bits", "seconds", *(cell for name in texts for cell in (f"KL {name}", f"perplexity {name}, %"))):
        result.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, row in rows.items():
        cells = [cell for text in texts for cell in (f"{row[text]['divergence x 100']:.2f}", f"{row[text]['change, percent']:+.2f}")]
        result.add_row(name, f"{row['bits']:.2f}", f"{row['seconds']:.0f}" if row["seconds"] else "", *cells)
    return result


def main() -> None:
    """Measure what is missing, write the result file after each row, and print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(SUBJECTS), choices=list(SUBJECTS))
    parser.add_argument("--tokens", type=int, default=6144)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*", default=[], help="recipes whose name contains one of these")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    console, path = Console(), common.RESULTS / FILE
    about = {key: value for key, value in common.about(tokens=args.tokens).items() if key != "date"}
    date = common.about()["date"]
    content: dict[str, dict[str, Row]] = json.loads(path.read_text()) if path.exists() else {}
    schemes = [scheme for scheme in SCHEMES if not args.only or any(word in scheme.name for word in args.only)]
    for name in args.models:
        rows = content.setdefault(name, {})
        missing = [scheme for scheme in schemes if rows.get(scheme.name, {}).get("about") != about]
        if missing:
            subject = SUBJECTS[name](args.tokens, console)
            with Progress(console=console, transient=True) as progress:
                measure = Measure(subject, progress)
                for scheme in missing:
                    rows[scheme.name] = {**measure.row(scheme), "date": date, "about": about}
                    common.write(FILE, content)
        order = {scheme.name: index for index, scheme in enumerate(SCHEMES)}
        content[name] = dict(sorted(rows.items(), key=lambda item: order.get(item[0], len(order))))
        common.write(FILE, content)
        console.print(table(content[name], f"{name}, head in float; KL in nats x 100"))


if __name__ == "__main__":
    main()
