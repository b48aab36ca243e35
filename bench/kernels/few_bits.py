"""Weights of few bits that come from memory: microseconds of a call, and what the weights' bytes take a second.

    python bench/kernels/few_bits.py [--threads 1] [--rows 1] [--shapes 4096x4096,8192x2048] [--rounds 40] [--isa vnni] [--only z --emulated]

Shapes are K x N. Each call reads other weights than the last ones did, more than the caches hold; lower quartiles of interleaved calls.
"""

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

from lowbit_compiler.runtime import kernels, library, ops
from lowbit_compiler.runtime.formats import operand
from lowbit_compiler.runtime.products import Plan

RING = 96 << 20  # bytes of weights that are read in turn
OURS = {  # word of the weights, group, word of the activations
    "u4 x float": ("int4", 32, ""),
    "z4 of 128 x float": ("int4-zeros", 128, ""),
    "z4 of 32 x float": ("int4-zeros", 32, ""),
    "z6 of 16 x float": ("int6-zeros", 16, ""),
    "u4 nested x int8": ("int4-nested", 32, "int8"),
    "ternary x int8": ("ternary", 64, "int8"),
    "ternary x float": ("ternary", 64, ""),
    "ternary groups x float": ("ternary-groups", 128, ""),
    "nf4 x float": ("nf4", 32, ""),
    "iq4 x float": ("iq4", 32, ""),
}

EMULATED = {
    "z4 of 128, emulated": ("int4-zeros", 128),
    "z6 of 16, emulated": ("int6-zeros", 16),
}  # as Inductor compiles them without a kernel


def in_turn(parts: tuple[torch.Tensor, ...]) -> tuple[Iterator[tuple[torch.Tensor, ...]], int]:
    """Return copies of a weight for ever, and the bytes of one."""
    size = sum(part.nbytes for part in parts)
    return itertools.cycle([tuple(part.clone() for part in parts) for _ in range(RING // size + 1)]), size


def emulated_of(x: torch.Tensor, n: int, k: int, word: str, group: int) -> tuple[Callable[[], object], int]:
    """Return a call of the product in float32 of a weight that is dequantized in the same graph, and the bytes of codes and lines."""
    weight = operand(word, group)
    assert weight is not None
    copies, size = in_turn(weight.quantize(torch.randn(n, k) / k**0.5))
    product = torch.compile(lambda x, *parts: Plan(None, weight).emulate(x, parts, None))
    product(x, *next(copies))
    return lambda: product(x, *next(copies)), size


def call_of(x: torch.Tensor, n: int, k: int, word: str, group: int, activations: str) -> tuple[Callable[[], object], int]:
    """Return a call that takes the next weight each time, and the bytes of one."""
    weight = operand(word, group)
    assert weight is not None
    plan = Plan(operand(activations, group) if activations else None, weight)
    copies, size = in_turn((weight.pack(weight.quantize(torch.randn(n, k) / k**0.5)),))
    op = getattr(torch.ops.lowbit, plan.op)
    return lambda: op(x, *next(copies), None, n, *plan.arguments, None), size


def main() -> None:
    """Print one table for each shape and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", default="1")
    parser.add_argument("--shapes", default="4096x4096,8192x2048")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--isa")
    parser.add_argument("--only", default="", help="those whose name begins so, and u4")
    parser.add_argument("--emulated", action="store_true", help="zero points without a kernel, beside")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"# torch {torch.__version__}, {options.threads} threads, {options.isa or library.status().isa}; lower quartiles of {options.rounds}"
    )
    for shape, m in itertools.product(options.shapes.split(","), map(int, options.rows.split(","))):
        k, n = map(int, shape.split("x"))
        x = torch.randn(m, k).bfloat16()
        made = {name: call_of(x, n, k, *what) for name, what in OURS.items() if name.startswith((options.only, "u4"))}
        made |= {name: emulated_of(x, n, k, *what) for name, what in EMULATED.items() if options.emulated}
        with kernels.using(isa=options.isa):
            times = common.interleaved({name: call for name, (call, _) in made.items()}, options.rounds, 0.5e-3)
        print(f"\nK {k} N {n}, {m} rows")
        least = {name: statistics.quantiles(values, n=4)[0] for name, values in times.items()}
        for name, (_, size) in made.items():
            against = least["u4 nested x int8" if name.endswith("int8") else "u4 x float"] / least[name]
            print(f"  {name:24s}{least[name] * 1e6:9.1f} us {size / least[name] / 1e9:6.1f} GB/s   x{against:.2f} of u4's speed")


assert ops  # registers the ops

if __name__ == "__main__":
    main()
