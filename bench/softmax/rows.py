"""lowbit::softmax and its peers in interleaved runs; writes bench/results/softmax.json, which plot.py draws.

    python bench/softmax/rows.py [--threads 1,2] [--rounds 11] [--sizes 1024,...] [--batches 12x128x128,...] [--skip-inductor] [--dry]

Every round calls each contestant twice and times the second call, so that nobody pays for the dirty cache lines of another; medians are
kept. "torch", "lowbit" and "inductor" allocate their output afresh, page faults included; "torch out" against "three-pass" and "two-pass"
(this project's algorithms) is the pair without, on preallocated memory. "inductor" and "compiled" are torch.compile with Inductor and with
lowbit, whose planner decides. "read" and "copy" (with stores past the caches) are what the memory allows, which is compared with rows past
the threshold only: others stay in the caches. Errors are the largest relative ones of a result that is no subnormal, against float64.
"""

import argparse
import ctypes
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

from lowbit_compiler.runtime import kernels, library, ops

SIZES = "1024,4096,16384,65536,262144,1048576,4194304,16777216"
BATCHES = "64x1024,64x4096,12x128x128,9x512x512,32x512x2048,32x2048x2048"
FLOATS = {torch.float32: 0, torch.bfloat16: 1}
Calls = dict[str, Callable[[], object]]
assert ops  # registers lowbit::softmax


def bandwidth() -> ctypes.CDLL:
    """Compile and load bandwidth.cpp."""
    path = Path(tempfile.mkdtemp()) / "bandwidth.so"
    source = Path(__file__).with_name("bandwidth.cpp")
    subprocess.run(["g++", "-O3", "-march=native", "-shared", "-fPIC", source, "-o", path], check=True)
    loaded = ctypes.CDLL(str(path))
    loaded.read_floats.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    loaded.read_floats.restype = ctypes.c_float
    loaded.stream_copy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    return loaded


def in_house(algorithm: str, x: Tensor, out: Tensor) -> Callable[[], object]:
    """Return a call of one algorithm without torch around it."""
    handle = library.handle()
    assert handle is not None
    handle.lowbit_softmax_rows.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int]
    n = x.shape[-1]
    passes = {"two-pass": 2, "three-pass": 3}[algorithm]

    def call() -> None:
        handle.lowbit_force_softmax(passes)
        handle.lowbit_softmax_rows(x.data_ptr(), out.data_ptr(), x.numel() // n, n, FLOATS[x.dtype])
        handle.lowbit_force_softmax(0)

    return call


def compiled(x: Tensor, backend: str) -> Callable[[], Tensor]:
    """Return a call of softmax compiled for ``x``."""
    runs = torch.compile(lambda a: torch.softmax(a, -1), backend=backend, dynamic=False)
    runs(x)
    return lambda: runs(x)


def errors(x: Tensor, calls: Calls) -> dict[str, float]:
    """Return the largest relative error of each that gives a result."""
    exact = torch.softmax(x.double(), -1)
    normal = exact >= torch.finfo(x.dtype).tiny
    found = {}
    for name in ("torch", "lowbit", "inductor", "compiled"):
        if name in calls:
            result: Any = calls[name]()
            found[name] = float(((result - exact).abs() / exact)[normal].max())
    return found


def contestants(x: Tensor, memory: ctypes.CDLL | None, inductor: bool) -> Calls:
    """Return every contestant's call on ``x``."""
    out = torch.empty_like(x)
    calls: Calls = {
        "torch": lambda: torch.softmax(x, -1),
        "torch out": lambda: torch.softmax(x, -1, out=out),
        "lowbit": lambda: torch.ops.lowbit.softmax.default(x, x.dim() - 1),  # as compiled code calls it
        "three-pass": in_house("three-pass", x, out),
        "two-pass": in_house("two-pass", x, out),
    }
    for name, backend in (("inductor", "inductor"), ("compiled", "lowbit")) if inductor else ():
        calls[name] = compiled(x, backend)
    if memory is not None:
        calls["read"] = lambda: memory.read_floats(x.data_ptr(), x.numel())
        calls["copy"] = lambda: memory.stream_copy(x.data_ptr(), out.data_ptr(), x.numel())
    return calls


def measure(calls: Calls, rounds: int) -> tuple[dict[str, float], float | None]:
    """Return the median microseconds of each call, and the median over rounds of how many times as fast "compiled" is as "inductor".

    Short calls are repeated.
    """
    times = common.interleaved(calls, rounds, 0.3e-3)
    pairs = zip(times.get("inductor", ()), times.get("compiled", ()), strict=True)
    ratios = [theirs / ours for theirs, ours in pairs]
    return {name: statistics.median(values) * 1e6 for name, values in times.items()}, statistics.median(ratios) if ratios else None


def summary(row: dict[str, Any], us: dict[str, float]) -> str:
    """Return one line about a row of results."""
    best = min(us["two-pass"], us["three-pass"])
    text = f"{row['shape']!s:>16} {row['dtype']} {row['threads']} threads: " + "  ".join(
        f"{name} {value:.1f}" for name, value in us.items()
    )
    text += f" us | torch/lowbit {us['torch'] / us['lowbit']:.2f}, torch out/best {us['torch out'] / best:.2f}"
    text += f", three/two {us['three-pass'] / us['two-pass']:.2f}"
    if row["inductor/compiled"]:
        text += f", inductor/compiled {row['inductor/compiled']:.2f}"
    text += "; errors " + ", ".join(f"{name} {error:.0e}" for name, error in row["errors"].items())
    past = "read" in us and row["threads"] == 1 and row["chosen"] == "two-pass"
    return text + (f", of bandwidth {(us['read'] + us['copy']) / us['two-pass']:.0%}" if past else "")


def main() -> None:
    """Measure, print a line a shape, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--batches", default=BATCHES)
    parser.add_argument("--skip-inductor", action="store_true")
    parser.add_argument("--dry", action="store_true", help="write no file")
    args = parser.parse_args()
    memory = bandwidth()
    shapes = [(int(n),) for n in args.sizes.split(",") if n]
    shapes += [tuple(map(int, b.split("x"))) for b in args.batches.split(",") if b]
    rows: list[dict[str, Any]] = []
    for threads in map(int, args.threads.split(",")):
        torch.set_num_threads(threads)
        for shape in shapes:
            for dtype in (torch.float32,) if len(shape) == 1 else (torch.float32, torch.bfloat16):
                torch._dynamo.reset()
                x = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 5).to(dtype)
                calls = contestants(x, memory if len(shape) == 1 else None, not args.skip_inductor)
                us, ratio = measure(calls, args.rounds)
                row: dict[str, Any] = {"shape": list(shape), "dtype": str(dtype).removeprefix("torch."), "threads": threads}
                row["chosen"] = kernels.softmax_passes(shape[-1], dtype)
                row |= {"us": us, "inductor/compiled": ratio, "errors": errors(x, calls)}
                rows.append(row)
                print(summary(row, us), flush=True)
    if not args.dry:
        common.write("softmax.json", {"about": common.about(rounds=args.rounds, statistic="median microseconds"), "rows": rows})


if __name__ == "__main__":
    main()
