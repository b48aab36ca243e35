"""What it costs to look whether weights were written to: SmolLM2-135M-Instruct, one token a step, every kind of check in one run.

python bench/weights/fingerprint.py [--recipe int8] [--dtype bfloat16] [--rounds 40] [--steps 10]

A check is timed inside of each step, where the step before it has left the caches and the page table's as they are in use.
"""

import argparse
import operator
import statistics
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

from lowbit_compiler.compile.driver import compile_dynamo
from lowbit_compiler.demo import model
from lowbit_compiler.options import parse
from lowbit_compiler.runtime.fingerprint import sampled
from lowbit_compiler.runtime.weights import Watch, _stamps

Check = Callable[[Sequence[Tensor]], object]


class Timed:
    """A compiled graph that calls one of several checks of its weights first, and keeps the seconds of each."""

    def __init__(self, executable: Any) -> None:
        self.executable, self.checks, self.seconds = executable, {}, []
        self.check: Check = len
        self.watched: list[Tensor] = []

    def __call__(self, *args: Any) -> Any:
        if not self.watched:
            self.watched = [args[i] for i in self.executable._watched]
        start = time.perf_counter()
        self.check([args[i] for i in self.executable._watched])
        self.seconds.append(time.perf_counter() - start)
        return self.executable(*args)


def _checks(watched: Sequence[Tensor]) -> dict[str, Check]:
    references, stamps, watch = [weakref.ref(tensor) for tensor in watched], _stamps(watched), Watch(watched, int)
    key = {tuple(map(id, watched)): watch}
    frozen = Watch(watched, int, frozen=True)

    def counters(tensors: Sequence[Tensor]) -> bool:
        """As it was: weak references, version counters, addresses."""
        return all(map(operator.is_, map(operator.call, references), tensors)) and _stamps(tensors) == stamps

    return {
        "frozen": lambda tensors: bool(key[tuple(map(id, tensors))]) and frozen.same(tensors),
        "counters and addresses alone": counters,
        "checked": lambda tensors: key[tuple(map(id, tensors))].same(tensors),
        "samples alone": lambda _: watch._places.hash() == watch._hash,
    }


def main() -> None:
    """Measure, print a table, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recipe", default="int8")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    console = Console()
    net: Any = model.load(getattr(torch, args.dtype), console).model
    options = parse({"recipe": args.recipe, "weights": "frozen"}, "reduce-overhead")
    graphs: list[Timed] = []

    def backend(gm: Any, examples: Sequence[Any]) -> Timed:
        graphs.append(Timed(compile_dynamo(gm, examples, options)))
        return graphs[-1]

    step = torch.compile(lambda ids: net(ids, use_cache=False).logits, fullgraph=True, dynamic=False, backend=backend)
    token, rows = torch.tensor([[11]]), {}
    with torch.inference_mode():
        step(token)
        (graph,) = graphs
        checks = _checks(graph.watched)
        assert all(check(graph.watched) for check in checks.values())
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in checks}
        for _ in range(args.rounds):
            for name, check in checks.items():
                graph.check = check
                step(token)
                graph.seconds.clear()
                whole = common.batch(lambda: step(token), args.steps)
                times[name].append((whole, statistics.median(graph.seconds)))
    base = statistics.median(seconds for name, found in times.items() for seconds, _ in found)
    for name, found in times.items():
        check_us = statistics.median(seconds for _, seconds in found) * 1e6
        rows[name] = {"step_ms": statistics.median(seconds for seconds, _ in found) * 1e3, "check_us": check_us}
        console.print(f"{name:30} step {rows[name]['step_ms']:.2f} ms, check {check_us:.0f} us, {check_us / base / 1e4:.2f} % of a step")
    lines = sum(len(sampled(tensor)) for tensor in graph.watched)
    about = common.about(
        threads=torch.get_num_threads(), recipe=args.recipe, dtype=args.dtype, weights=len(graph.watched), lines=lines, step_ms=base * 1e3,
    )  # fmt: skip
    console.print(
        f"{len(graph.watched)} weights, {lines} lines; written to {common.write('fingerprint.json', {'about': about, 'rows': rows})}"
    )


if __name__ == "__main__":
    main()
