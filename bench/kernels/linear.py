"""Every linear op and its peers at the shapes of SmolLM2-135M and square ones: lower quartiles of interleaved calls, and ratios.

    python bench/kernels/linear.py [--threads 1] [--shapes smollm|square|all] [--rows 1,512] [--rounds 30] [--kernels]

A column says how many times faster the op is than the peer named in its heading; > 1 is faster. With ``--kernels`` each kernel
of the library's list is timed instead, against the kernel that is chosen.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

from lowbit_compiler.runtime import kernels, library, ops

SHAPES = {
    "smollm": [(576, 960), (576, 576), (576, 3072), (1536, 576), (576, 49152)],
    "square": [(1024, 1024), (4096, 4096)],
}
GROUP = 64
L = torch.ops.lowbit
Calls = dict[str, Callable[[], object]]


def ours(x: Tensor, w: Tensor) -> Calls:
    """Return the linear ops of this project on the same weight."""
    n = w.shape[0]
    plain = L.pack_s8(*L.quantize_s8(w))
    rotated = L.pack_s8(*L.quantize_s8(L.rotate(w)))
    four = L.pack_s4(*L.quantize_s4(w, GROUP), GROUP)
    return {
        "s8s8": lambda: L.linear_s8s8(x, plain, None, n, None),
        "rotated": lambda: L.linear_s8s8_rotated(x, rotated, None, n, None),
        "columns": lambda: L.linear_s8s8_columns(x, plain, None, n, 6.0, None),
        "rows": lambda: L.linear_s8s8_rows(x, plain, None, n, None),
        "fs8": lambda: L.linear_fs8(x, plain, None, n, None),
        "fs4": lambda: L.linear_fs4(x, four, None, n, GROUP, None),
    }


def peers(x: Tensor, w: Tensor) -> Calls:
    """Return bfloat16 linear (plain and prepacked), oneDNN's fused int8 linear and torch._int_mm with an eager epilogue."""
    calls: Calls = {"bf16": lambda: torch.nn.functional.linear(x, w)}
    m, (n, k) = x.shape[0], w.shape
    if torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_linear_weight(w, m)
        calls["bf16 packed"] = lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    qx, sx = L.quantize_s8(x)
    qw, sw = L.quantize_s8(w)
    qpacked = torch.ops.onednn.qlinear_prepack(qw, [m, k])
    scale = float(sx.max())
    zeros = torch.zeros(n, dtype=torch.int64)
    calls["onednn int8 (no quantize)"] = lambda: torch.ops.onednn.qlinear_pointwise(
        qx, scale, 0, qpacked, sw.flatten(), zeros, None, 1.0, 0, torch.bfloat16, "none", [], ""
    )
    wt = qw.t()

    def int_mm() -> Tensor:
        q, s = L.quantize_s8(x)
        return (torch._int_mm(q, wt).float() * s * sw.t()).to(x.dtype)

    if m > 16:
        calls["_int_mm + epilogue"] = int_mm
    return calls


def measure(calls: Calls, rounds: int) -> dict[str, float]:
    """Return the lower quartile of each call's microseconds (a shared machine only adds); each round times every call once, for about as long."""
    times = common.interleaved(calls, rounds, 0.5e-3)
    return {name: statistics.quantiles(values, n=4)[0] * 1e6 for name, values in times.items()}


def with_kernel(name: str, call: Callable[[], object]) -> None:
    """Call with the kernel ``name``."""
    with kernels.using(kernel=name):
        call()


def each_kernel(x: Tensor, w: Tensor) -> Calls:
    """Return a call for every product kernel this machine can run."""
    calls: Calls = {}
    mine = ours(x, w)
    op_of = {"qgemm": "s8s8", "fgemm_s8": "fs8", "fgemm_s4": "fs4"}
    for kernel in kernels.kernels():
        if kernel.family not in op_of or kernel.isa not in library.status().detected:
            continue

        calls[kernel.name] = partial(with_kernel, kernel.name, mine[op_of[kernel.family]])
    return calls


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", choices=[*SHAPES, "all"], default="smollm")
    parser.add_argument("--rows", default="1,4,16,64,256,512")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--kernels", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"# torch {torch.__version__}, {options.threads} threads, {library.status().isa}; microseconds, lower quartiles of {options.rounds}"
    )
    shapes = [s for name, group in SHAPES.items() if options.shapes in (name, "all") for s in group]
    for k, n in shapes:
        w = (torch.randn(n, k) / k**0.5).bfloat16()
        for m in map(int, options.rows.split(",")):
            x = torch.randn(m, k)
            x[:, :: max(k // 8, 1)] *= 8  # a few outlier columns, so that the splits have work
            x = x.bfloat16()
            mine = each_kernel(x, w) if options.kernels else ours(x, w)
            others = {} if options.kernels else peers(x, w)
            times = measure({**mine, **others}, options.rounds)
            print(f"\nM {m} K {k} N {n}   " + "  ".join(f"{name} {times[name]:.1f}" for name in others))
            for name in mine:
                ratios = "  ".join(f"x{times[other] / times[name]:.2f} {other}" for other in others)
                rate = 2 * m * n * k / times[name] / 1e6
                print(f"  {name:28s}{times[name]:10.1f} us {rate:7.3f} TOPS {n * k / times[name] / 1e3:7.1f} GB/s of int8   {ratios}")


assert ops  # registers the ops

if __name__ == "__main__":
    main()
