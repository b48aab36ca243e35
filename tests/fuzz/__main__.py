"""``make fuzz ARGS="--models 1000 --seed 7"``: many random models, and the source of those that go wrong."""

import argparse
import logging
import sys
import time
import warnings
from collections import Counter

from fuzz.check import RECIPES, check
from fuzz.models import random_case


def main() -> int:
    """Check the models of the seeds from ``--seed`` on; returns how many went wrong."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", choices=RECIPES, action="append")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ("lowbit_compiler", "torch._subclasses.fake_tensor"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    start, wrong, graphs, tightness, moved = time.perf_counter(), 0, 0, 0.0, 0.0
    ops: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for seed in range(given.seed, given.seed + given.models):
        case = random_case(seed)
        result = check(case, given.recipe or RECIPES)
        ops, reasons, graphs = ops + result.ops, reasons + result.reasons, graphs + result.graphs
        tightness, moved = max(tightness, result.tightness), max(moved, result.moved)
        if result.problems:
            wrong += 1
            print(case.title, *result.problems, case.source, sep="\n  ", flush=True)
    print(f"{given.models} models, {graphs} graphs, {wrong} wrong; {time.perf_counter() - start:.0f} s")
    print(f"largest error over certificate {tightness:.3f}; over what rounding may {moved:.1f}")
    for title, counts in (("rewritten", ops), ("declined", reasons)):
        print(f"{title} {sum(counts.values())}: " + ", ".join(f"{name} {count}" for name, count in counts.most_common()))
    return min(wrong, 100)


if __name__ == "__main__":
    sys.exit(main())
