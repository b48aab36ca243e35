"""Recipes of few bits on real models: bits of a weight, divergence from the float model, and what becomes of the perplexity.

    python bench/accuracy/int4.py [--models smollm2-off ...] [--only WORD ...] [--tokens 6144] [--threads 2]

Each recipe is compiled by torch.compile(backend="lowbit") with the kernels of this machine, the rest of the graph eager; the head stays in
float. The divergence is the mean Kullback-Leibler divergence of the next token's distribution from the float model's, in nats times 100. Bits
are those of codes, scales and whatever else is stored, over all weights that are in low precision. A scheme with methods is prepared with 16
texts of 512 tokens (calibration.py), none of them judged. A run that was cut off goes on where it stopped: a row is kept with the machine and
versions it was measured with, and measured anew where these differ.
"""

import argparse
import copy
import json
import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from int4_docs import Row, cells
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from subjects import SUBJECTS, UNCOUNTED, Sample, Subject
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

import lowbit_compiler
from lowbit_compiler.passes.plan import plan_of
from lowbit_compiler.preparing.flexround import FlexRound
from lowbit_compiler.recipes import RECIPES, Recipe, find_recipe

FILE = "int4.json"
WIDTHS = sorted(common.RESULTS.glob("int4_widths*.toml"))
"""Written by ``lowbit debug widths`` (bench/accuracy/widths.py)."""
UNFINISHED = Path(__file__).resolve().parents[2] / "build" / "int4"
"""Folder of what interrupted runs prepared, block by block."""
ROOM = 1 << 30
"""Numbers of the float model's logits that are kept."""


@dataclass(frozen=True)
class Scheme:
    """A recipe, the methods it is prepared with, and "self" where the text for that is the model's own."""

    recipe: Recipe
    methods: tuple[Any, ...] = ()
    data: str = ""

    @property
    def name(self) -> str:
        """As in the table."""
        return ", ".join(
            [self.recipe.name, *(getattr(method, "name", method) for method in self.methods), *([self.data] * bool(self.data))]
        )


def _of(recipe: str, **changes: Any) -> Recipe:
    """Return a recipe with its head in float, and other fields; ``g64`` and the like in its name where groups have another size."""
    found = replace(RECIPES[recipe], head="float", **changes)
    said = [f"g{found.group_size}"] * ("group_size" in changes) + [found.treatment] * ("treatment" in changes)
    return replace(found, name=" ".join([changes.get("weights", recipe), *said]))


GPTQ = ("gptq",)
FIRST = [Scheme(_of("int8")), Scheme(_of("int4-weight-only")), Scheme(_of("int4"), GPTQ)]
SCHEMES = {
    "smollm2-off": [
        *FIRST,
        Scheme(_of("int4-int8"), GPTQ),
        Scheme(_of("int4", group_size=64), GPTQ),
        Scheme(_of("int4", treatment="rotation"), GPTQ),
        *(Scheme(_of("int4", weights="int5", group_size=size), GPTQ) for size in (64, 128)),
        *(Scheme(replace(find_recipe(path), name=path.stem.removeprefix("int4_"), head="float"), GPTQ) for path in WIDTHS),
        Scheme(_of("int4", weights="int4-nested"), GPTQ),
        Scheme(_of("int3"), GPTQ),
        Scheme(_of("int4"), ("awq",)),
        Scheme(_of("int4"), ("awq", "gptq")),
        Scheme(_of("int4"), GPTQ, "self"),
        Scheme(_of("int4"), (FlexRound(steps=64),)),
    ],
    "gemma-3-270m": [*FIRST, Scheme(_of("int4-int8"), GPTQ)],
    "whisper-base": FIRST,
}
"""Of each model, what matters most first."""


class Measure:
    """Runs a subject's model; every run is compared with the float model's logits, of which as many are kept as there is room for."""

    def __init__(self, subject: Subject, folder: Path, progress: Progress) -> None:
        self.subject, self.folder, self.progress = subject, folder, progress
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
        network, seconds = prepared(self.subject, scheme, self.folder)
        options = {"recipe": scheme.recipe, "remainder": "eager", "plan": "always"}
        low = torch.compile(network, backend="lowbit", dynamic=False, options=options)
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
        about = {"bits": _bits(network, modules, scheme.recipe), "layers": len(modules), "seconds": seconds}
        return about | {name: _summary(total) for name, total in sums.items()} | self.subject.further(network, options)


def prepared(subject: Subject, scheme: Scheme, folder: Path) -> tuple[Any, float]:
    """Return the subject's network, or a copy that is prepared, and the seconds that took: 0 where ``folder`` has blocks of an interrupted run."""
    if not scheme.methods:
        return subject.network, 0.0
    network = copy.deepcopy(subject.network)  # the next scheme is to find it as it was
    data, checkpoint = scheme.data or subject.calibration, folder / scheme.name.replace(", ", "-").replace(" ", "-")
    start, begun = time.process_time(), checkpoint.exists()
    network = lowbit_compiler.prepare(network, scheme.recipe, data, methods=scheme.methods, checkpoint=checkpoint)
    return network, 0.0 if begun else time.process_time() - start


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
    weights = {name: network.get_submodule(name).weight for name in modules}
    stored = sum(len(w) * (plan_of(recipe, [name]) or recipe.plan).w.row_bytes(w[0].numel()) for name, w in weights.items())
    return 8 * stored / sum(w.numel() for w in weights.values())


def table(rows: dict[str, Row], title: str) -> Table:
    """Return the rows of one model as they are printed."""
    result = Table(title=title, title_justify="left")
    head, *lines = cells(rows)
    for column in head:
        result.add_column(column, justify="right" if column else "left", no_wrap=True)
    for line in lines:
        result.add_row(*line)
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
    console, path = Console(width=None if sys.stdout.isatty() else 140), common.RESULTS / FILE
    about = {key: value for key, value in common.about(tokens=args.tokens).items() if key != "date"}
    date = common.about()["date"]
    content: dict[str, dict[str, Row]] = json.loads(path.read_text()) if path.exists() else {}
    for name in args.models:
        rows = content.setdefault(name, {})
        schemes = [each for each in SCHEMES[name] if not args.only or any(word in each.name for word in args.only)]
        missing = [scheme for scheme in schemes if rows.get(scheme.name, {}).get("about") != about]
        if missing:
            subject = SUBJECTS[name](args.tokens, console)
            with Progress(console=console, transient=True) as progress:
                measure = Measure(subject, UNFINISHED / name, progress)
                for scheme in missing:
                    rows[scheme.name] = {**measure.row(scheme), "date": date, "about": about}
                    common.write(FILE, content)
        order = {scheme.name: index for index, scheme in enumerate(SCHEMES[name])}
        content[name] = dict(sorted(rows.items(), key=lambda item: order.get(item[0], len(order))))
        common.write(FILE, content)
        console.print(table(content[name], f"{name}, head in float; KL in nats x 100"))


if __name__ == "__main__":
    main()
