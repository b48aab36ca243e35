"""One tree's share of bench/compile/passes.py: traces SmolLM2 and runs the passes each time that a line comes in.

Started by passes.py with the tree's own interpreter; it uses what is public in every tree.
"""

import json
import sys
import time

import torch

import lowbit_compiler as lowbit
from lowbit_compiler.demo.model import load

TOKENS = 8  # the model also runs once in float, which should take no part of what is timed


def main(recipe: str) -> None:
    """Answer each line with the seconds of ``explain``, also the processor's, and of each pass, as JSON; the first line says which tree this is."""
    sys.stdout, answers = sys.stderr, sys.stdout  # nothing else goes where the answers go
    model = load().model
    ids = torch.arange(TOKENS)[None]
    print(json.dumps({"tree": lowbit.__file__}), file=answers, flush=True)
    for _ in sys.stdin:
        start, worked = time.perf_counter(), time.process_time()
        with torch.no_grad():
            report = lowbit.explain(lambda ids: model(ids, use_cache=False).logits, ids, recipe=recipe, plan="always")
        times = {"explain": time.perf_counter() - start, "processor": time.process_time() - worked}
        passes = [(run.name, run.seconds) for run in report.passes]
        print(json.dumps(times | {"passes": passes, "rewritten": len(report.rewritten)}), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
