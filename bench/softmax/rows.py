"""lowbit::softmax and its peers in interleaved runs; writes bench/results/softmax.json, which plot.py draws.

    python bench/softmax/rows.py [--threads 1,2] [--rounds 11] [--sizes 1024,...] [--batches 12x128x128,...] [--skip-inductor] [--dry]

Every round calls each contestant twice and times the second call, so that nobody pays for the dirty cache lines of another; medians are
kept. "torch", "lowbit" and "inductor" allocate their output afresh, page faults included; "torch out" against "three-pass" and "two-pass"
(this project's algorithms) is the pair without, on preallocated memory. "read" and "copy" (with stores past the caches) are what the
memory allows, which is compared with rows past the threshold only: others stay in the caches.
"""

import argparse
import ctypes
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

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


def contestants(x: Tensor, memory: ctypes.CDLL | None, inductor: bool) -> Calls:
    """Return every contestant's call on ``x``."""
    out = torch.empty_like(x)
    calls: Calls = {
        "torch": lambda: torch.softmax(x, -1),
        "torch out": lambda: torch.softmax(x, -1, out=out),
        "lowbit": lambda: torch.ops.lowbit.softmax(x, x.dim() - 1, 1.0, None, False, None),
        "three-pass": in_house("three-pass", x, out),
        "two-pass": in_house("two-pass", x, out),
    }
    if inductor:
        compiled = torch.compile(lambda a: torch.softmax(a, -1), dynamic=False)
        compiled(x)
        calls["inductor"] = lambda: compiled(x)
    if memory is not None:
        calls["read"] = lambda: memory.read_floats(x.data_ptr(), x.numel())
        calls["copy"] = lambda: memory.stream_copy(x.data_ptr(), out.data_ptr(), x.numel())
    return calls


def measure(calls: Calls, rounds: int) -> dict[str, float]:
    """Return the median microseconds of each call; short calls are repeated."""
    times = common.interleaved(calls, rounds, 0.3e-3)
    return {name: statistics.median(values) * 1e6 for name, values in times.items()}


def summary(row: dict[str, object], us: dict[str, float]) -> str:
    """Return one line about a row of results."""
    best = min(us["two-pass"], us["three-pass"])
    text = f"{row['shape']!s:>16} {row['dtype']} {row['threads']} threads: " + "  ".join(
        f"{name} {value:.1f}" for name, value in us.items()
    )
    text += f" us | torch/lowbit {us['torch'] / us['lowbit']:.2f}, torch out/best {us['torch out'] / best:.2f}"
    text += f", three/two {us['three-pass'] / us['two-pass']:.2f}"
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
    rows: list[dict[str, object]] = []
    for threads in map(int, args.threads.split(",")):
        torch.set_num_threads(threads)
        for shape in shapes:
            for dtype in (torch.float32,) if len(shape) == 1 else (torch.float32, torch.bfloat16):
                torch._dynamo.reset()
                x = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 5).to(dtype)
                us = measure(contestants(x, memory if len(shape) == 1 else None, not args.skip_inductor), args.rounds)
                row: dict[str, object] = {"shape": list(shape), "dtype": str(dtype).removeprefix("torch."), "threads": threads}
                row["chosen"] = kernels.softmax_passes(shape[-1], dtype)
                row["us"] = us
                rows.append(row)
                print(summary(row, us), flush=True)
    if not args.dry:
        common.write("softmax.json", {"about": common.about(rounds=args.rounds, statistic="median microseconds"), "rows": rows})


if __name__ == "__main__":
    main()
