"""One tree's share of bench/compile/planning.py: plans a SmolLM2 of few layers, remembering nothing, each time that a line comes in.

Started by planning.py with the tree's own interpreter.
"""

import json
import os
import sys
import tempfile
import time
from typing import Any

import torch

import lowbit_compiler as lowbit
from lowbit_compiler.demo.model import load
from lowbit_compiler.pricing import timing
from lowbit_compiler.runtime import timings

LAYERS = 2  # the others are like these


def watched(best: Any, groups: dict[str, tuple[float, float]]) -> Any:
    """Return ``best``, which adds the seconds of each call that it has not met yet to ``groups``, and those of the processor."""

    def run(key: str, *arguments: Any) -> Any:
        start, worked = time.perf_counter(), time.process_time()
        try:
            return best(key, *arguments)
        finally:
            groups.setdefault(key, (time.perf_counter() - start, time.process_time() - worked))

    return run


def main(recipe: str, *lengths: str) -> None:
    """Answer each line with the seconds of each group and the op of each site, by length, as JSON; the first line says which tree this is."""
    sys.stdout, answers = sys.stderr, sys.stdout  # nothing else goes where the answers go
    model = load().model
    model.model.layers = model.model.layers[:LAYERS]
    best = timing.best
    print(json.dumps({"tree": lowbit.__file__}), file=answers, flush=True)
    for _ in sys.stdin:
        answer = {}
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = folder
            timings.known().clear()
            for tokens in lengths:
                groups: dict[str, tuple[float, float]] = {}
                timing.best = watched(best, groups)
                ids = torch.arange(int(tokens))[None]
                with torch.no_grad():
                    report = lowbit.explain(lambda ids: model(ids, use_cache=False).logits, ids, recipe=recipe)
                answer[tokens] = {"groups": list(groups.values()), "ops": [site.lowered_to for site in report.sites]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
