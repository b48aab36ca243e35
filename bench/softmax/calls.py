"""What a softmax costs through torch.compile beside its kernel, by backend; prints, and writes no file.

    python bench/softmax/calls.py [--rounds 41] [--shapes 16,1024,4096,16384,32x128,32x1024]

One thread, medians of interleaved rounds, microseconds. "nothing" is a backend whose graph returns a tensor that is there: what Dynamo takes
before anybody's graph is run. The graphs of "among" have a relu on both sides of the softmax; lowbit takes its own op everywhere
(plan="always"). The rest are differences within a round, which the planner counts on (lowbit_compiler/pricing/attention.py): "call", of
Inductor's code beyond torch.softmax, where ours is called directly, and "checks", around ours in Inductor's code beyond the op and two loops.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

from lowbit_compiler.pricing.attention import CALL, CHECKS
from lowbit_compiler.runtime import ops

assert ops  # registers lowbit::softmax
Calls = dict[str, Callable[[], object]]


def alone(x: Tensor) -> Tensor:
    """Return a softmax."""
    return torch.softmax(x, -1)


def among(x: Tensor) -> Tensor:
    """Return a softmax with loops on both sides."""
    return torch.relu(torch.softmax(torch.relu(x), -1))


def compiled(function: Callable[[Tensor], Tensor], x: Tensor, backend: Any) -> Callable[[], object]:
    """Return a call of ``function`` compiled for ``x``."""
    options = {"plan": "always"} if backend == "lowbit" else None
    runs = torch.compile(function, backend=backend, dynamic=False, options=options)
    runs(x)
    return lambda: runs(x)


def contestants(x: Tensor) -> Calls:
    """Return every call on ``x``."""
    there = (torch.softmax(x, -1),)

    def nothing(gm: fx.GraphModule, examples: list[Any]) -> Callable[..., Any]:
        return lambda *_: there

    def fresh(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda a: function(a)  # Dynamo keeps what it compiles with the code that it is of

    calls: Calls = {"torch": lambda: torch.softmax(x, -1), "op": lambda: torch.ops.lowbit.softmax.default(x, x.dim() - 1)}
    calls["clone"] = x.clone
    calls |= {str(name): compiled(fresh(alone), x, name) for name in ("eager", "inductor", "lowbit")}
    calls["nothing"] = compiled(fresh(alone), x, nothing)
    return calls | {f"among {name}": compiled(fresh(among), x, name) for name in ("inductor", "lowbit")}


def differences(times: dict[str, list[float]]) -> dict[str, float]:
    """Return the seconds of "call" and "checks": what Inductor's code adds to its own softmax alone, and to ours among its loops."""
    rounds = [dict(zip(times, each, strict=True)) for each in zip(*times.values(), strict=True)]
    return {
        "call": statistics.median(r["inductor"] - r["lowbit"] + r["op"] - r["torch"] for r in rounds),
        "checks": statistics.median(r["among lowbit"] - r["among inductor"] - r["op"] - 2 * r["clone"] + r["torch"] for r in rounds),
    }


def main() -> None:
    """Measure and print a line a shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--shapes", default="16,1024,4096,16384,32x128,32x1024")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for text in args.shapes.split(","):
        torch._dynamo.reset()
        x = torch.randn(tuple(map(int, text.split("x"))), generator=torch.Generator().manual_seed(0)) * 5
        with torch.no_grad():
            times = common.interleaved(contestants(x), args.rounds, 0.3e-3)
        line = "  ".join(f"{name} {statistics.median(values) * 1e6:.1f}" for name, values in times.items())
        extra = ", ".join(f"{name} {seconds * 1e6:.1f}" for name, seconds in differences(times).items())
        print(f"{text:>8}: {line} us | {extra} (counted on: {CALL * 1e6:.0f}, {CHECKS * 1e6:.0f})", flush=True)


if __name__ == "__main__":
    main()
