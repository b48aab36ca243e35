"""Where the time of one step of SmolLM2-135M-Instruct goes, in float, with int8 as it was and as it is: result file and picture.

python bench/models/step.py [--model smollm2|wide] [--tokens 1] [--variants Inductor,chains] [--rounds 40]

"wide" has the shapes of Qwen2.5-1.5B, in five layers of random weights: there the weights are most of a step.
All variants are compiled in one process and take turns. "Dynamo" is what passes before our code is called (guards, loads of
weights), "weights" the look at whether one has changed, "wrapper" what Inductor's generated code takes beside the calls in it.
"""

import argparse
import os
import re
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table
from torch import fx

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

from lowbit_compiler.backend import lowbit
from lowbit_compiler.demo import model
from lowbit_compiler.profiling.calls import Call
from lowbit_compiler.profiling.rounds import recorded
from lowbit_compiler.runtime import library
from lowbit_compiler.torch_internals import inductor

PARTS = ("products", "attention", "loops", "wrapper", "weights", "Dynamo")
COLORS = ("#2a6fbb", "#74a9d8", "#b7d3ea", "#b8b8b8", "#d9b38c", "#c0504d")


def _float(gm: fx.GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
    return inductor.compile_graph(gm, examples, None)


def _smollm2(console: Console) -> Any:
    return model.load(torch.bfloat16, console).model


def _wide(console: Console) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 5, "num_attention_heads": 12, "num_key_value_heads": 2}
    return Qwen2ForCausalLM(Qwen2Config(**sizes, vocab_size=50_000, tie_word_embeddings=True)).to(torch.bfloat16).eval()


MODELS = {"smollm2": _smollm2, "wide": _wide}
FROZEN = {"plan": "always", "modules": "frozen", "weights": "frozen"}
# Each with the passes that are left out; plan="always" so that the planner's noise makes no difference.
VARIANTS: dict[str, tuple[Callable[..., Any], str]] = {
    "Inductor": (_float, ""),
    "a call a product": (partial(lowbit, options={"plan": "always"}), "chain"),
    "chains": (partial(lowbit, options={"plan": "always"}), ""),
    "chains frozen": (partial(lowbit, options=FROZEN), ""),
    "int4-weight-only frozen": (partial(lowbit, options={**FROZEN, "recipe": "int4-weight-only"}), ""),
    "int4-int8 frozen": (partial(lowbit, options={**FROZEN, "recipe": "int4-int8"}), ""),
    "chains frozen in C++": (
        partial(lowbit, mode="reduce-overhead", options=FROZEN),
        "",
    ),
}


@dataclass
class Watched:
    """A compiled graph, and the seconds of each call of it and of what it calls in turn."""

    run: Callable[..., Any]
    outer: list[float] = field(default_factory=list)
    inner: list[float] = field(default_factory=list)
    counts: bool = False

    def __post_init__(self) -> None:
        if hasattr(self.run, "inner"):
            self.run.inner = self._clocked(self.run.inner, self.inner)
        self.run = self._clocked(self.run, self.outer)

    def _clocked(self, call: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
        def clocked(*args: Any) -> Any:
            start = time.perf_counter()
            result = call(*args)
            if self.counts:
                seconds.append(time.perf_counter() - start)
            return result

        return clocked


def main() -> None:
    """Measure, print a table, write the result file and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", choices=MODELS)
    parser.add_argument("--tokens", type=int, default=1)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    names = args.variants.split(",")
    if unknown := set(names) - set(VARIANTS):
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    console = Console()
    net = MODELS[args.model](console)
    ids = torch.randint(0, 40000, (1, args.tokens), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        steps = {}
        for name in names:
            console.print(f"compiling: {name} ...")
            steps[name] = _compiled(net, name, ids)
        rows = _measured(steps, args.rounds)
    console.print(_table(rows))
    about = common.about(
        torch.get_num_threads(), model=args.model, tokens=args.tokens, rounds=args.rounds, statistic="medians over rounds, in ms"
    )
    stem = "_".join(["step", *([args.model] if args.model != "smollm2" else []), str(args.tokens), library.status().isa])
    console.print(f"written to {common.write(f'{stem}.json', {'about': about, 'rows': rows})}")
    _plot(rows, about, common.RESULTS / f"{stem}.png")


def _compiled(net: Any, name: str, ids: torch.Tensor) -> tuple[Callable[[], Any], Watched]:
    """Return the step and the one graph in it."""
    backend, disabled = VARIANTS[name]
    graphs: list[Watched] = []

    def watched(gm: fx.GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
        graphs.append(Watched(backend(gm, examples)))
        return graphs[-1].run

    def step_of(ids: torch.Tensor) -> Any:
        return net(ids, use_cache=False).logits

    # Code of its own: Dynamo goes through the graphs of all functions of one code.
    step_of.__code__ = step_of.__code__.replace(co_name=re.sub(r"\W", "_", name))
    step = torch.compile(step_of, backend=watched, fullgraph=True, dynamic=False)
    with patch.dict(os.environ, LOWBIT_DISABLE=disabled), inductor.settings({"cpp.enable_kernel_profile": True}):
        step(ids)
    return partial(step, ids), graphs[0]


def _measured(steps: dict[str, tuple[Callable[[], Any], Watched]], rounds: int) -> dict[str, dict[str, float]]:
    whole: dict[str, list[float]] = {name: [] for name in steps}
    calls: dict[str, list[Sequence[Call]]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, (run, graph) in steps.items():
            run()  # nobody pays for what another left in the caches
            graph.counts = True
            whole[name].append(common.batch(run, 1))
            graph.counts = False
            calls[name] += [step.calls for step in recorded(run, 1, on_gpu=False)]
    rows = {}
    for name, (_, graph) in steps.items():
        total, outer = statistics.median(whole[name]), statistics.median(graph.outer)
        inner = statistics.median(graph.inner) if graph.inner else outer
        parts = _calls(calls[name])
        parts |= {"wrapper": inner - sum(parts.values()), "weights": outer - inner, "Dynamo": total - outer}
        rows[name] = {"whole": total * 1e3, **{part: parts.get(part, 0.0) * 1e3 for part in PARTS}}
    return rows


def _calls(steps: Sequence[Sequence[Call]]) -> dict[str, float]:
    """Return the seconds of the calls of a step, by kind; medians over the recorded steps."""
    found: dict[str, list[float]] = defaultdict(list)
    for calls in steps:
        kinds = dict.fromkeys(("products", "attention", "loops"), 0.0)
        for call in calls:
            kinds["loops" if call.name.startswith("cpp_") else "attention" if _attends(call.name) else "products"] += call.seconds
        for kind, seconds in kinds.items():
            found[kind].append(seconds)
    return {kind: statistics.median(seconds) for kind, seconds in found.items()}


def _attends(name: str) -> bool:
    return "sdpa" in name or "scaled_dot_product" in name


def _table(rows: dict[str, dict[str, float]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("ms")
    for part in ("whole", *PARTS):
        table.add_column(part, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[part]:.2f}" for part in ("whole", *PARTS)))
    return table


def _plot(rows: dict[str, dict[str, float]], about: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    mine = {name: row for name, row in rows.items() if name != "Inductor"}
    figure, axis = plt.subplots(figsize=(9, 0.9 + 0.6 * len(mine)), layout="constrained")
    ends = common.stacked(axis, {name: mine[name] for name in reversed(mine)}, dict(zip(PARTS, COLORS, strict=True)))
    for y, end in enumerate(ends):
        axis.text(end, y, f" {end:.2f} ms", va="center", fontsize=8)
    axis.margins(x=0.1)
    axis.set_xlabel("ms")
    axis.legend(fontsize=8, ncols=len(PARTS), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    beside = f", Inductor in bfloat16 {rows['Inductor']['whole']:.1f} ms" if "Inductor" in rows else ""
    figure.suptitle(
        f"{about['model']}, {about['tokens']} token{'s' * (about['tokens'] > 1)}{beside} ({about['machine']}, torch {about['torch']}, {about['date']})",
        fontsize=8,
    )
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
