"""Checks of what runs on a GPU, from a checkout: no installation, no network. `make gpu-check`.

1. Every op on CUDA tensors against the same op on the CPU.
2. A small Llama-like model and an MLP, compiled on the GPU with every recipe, against the eager bfloat16 model; times against Inductor.

There are no CUDA kernels yet: the ops run on their plain-torch reference there, and compiling leaves a CUDA model in float, as right
and as fast as Inductor alone. Without a GPU it says so and ends with status 0; a wrong result ends with status 1.
"""

import importlib
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
import typeview
from torch import Tensor, nn

K, N, ROWS = 576, 200, 33
LAYERS, LENGTH = 4, 512
COSINE = 0.99


class Block(nn.Module):
    """One layer of a Llama: normed attention with rotary halves, and a gated MLP."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        q, k, v = (part(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        angle = torch.arange(x.shape[1], device=x.device)[:, None] / 10000 ** torch.linspace(0, 1, q.shape[-1] // 2, device=x.device)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        q, k = (torch.cat([a * cos - b * sin, b * cos + a * sin], -1) for a, b in (q.chunk(2, -1), k.chunk(2, -1)))
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(attended.transpose(1, 2).flatten(2))
        h = self.norm2(x)
        mlp: Tensor = self.down(nn.functional.silu(self.gate(h)) * self.up(h))
        return x + mlp


def models() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """The models of check 2 with the shape of their input."""
    llama = nn.Sequential(*(Block(512, 8, 1376) for _ in range(LAYERS)), nn.RMSNorm(512), nn.Linear(512, 4096, bias=False))
    mlp = nn.Sequential(nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 1024))
    return {f"llama-like, {LAYERS} layers": (llama, (1, LENGTH, 512)), "mlp 1024-4096-1024": (mlp, (256, 1024))}


def op_calls() -> dict[str, tuple[Any, ...]]:
    """One call of every op, on the CPU; the weights are quantized by the ops themselves."""
    ops = torch.ops.lowbit
    x = torch.randn(ROWS, K)
    x[:, 7] *= 40
    w, bias = torch.randn(N, K) / K**0.5, torch.randn(N)
    q8, q4 = ops.quantize_s8(w), ops.quantize_s4(w, 64)
    packed, rotated, packed4 = ops.pack_s8(*q8), ops.pack_s8(*ops.quantize_s8(ops.rotate(w))), ops.pack_s4(*q4, 64)
    x = x.bfloat16()
    return {
        "quantize_s8": (x,),
        "dequantize_s8": (*q8, torch.bfloat16),
        "quantize_s4": (w, 64),
        "dequantize_s4": (*q4, 64, torch.bfloat16),
        "rotate": (x,),
        "split_columns": (x, 6.0),
        "split_rows": (x,),
        "pack_s8": q8,
        "pack_s4": (*q4, 64),
        "linear_s8s8": (x, packed, bias, N, None),
        "linear_s8s8_rotated": (x, rotated, bias, N, None),
        "linear_s8s8_columns": (x, packed, bias, N, 6.0, None),
        "linear_s8s8_rows": (x, packed, bias, N, None),
        "linear_fs8": (x, packed, bias, N, None),
        "linear_fs4": (x, packed4, bias, N, 64, None),
    }


def check_ops(device: str) -> list[str]:
    """Names of the ops whose result on `device` is not the CPU's: integers equal, floats within bfloat16's rounding."""
    failed = []
    for name, args in op_calls().items():
        op = getattr(torch.ops.lowbit, name)
        want = op(*args)
        got = op(*(arg.to(device) if isinstance(arg, Tensor) else arg for arg in args))
        pairs = zip(*((r,) if isinstance(r, Tensor) else r for r in (got, want)), strict=True)
        if not all(_agree(g.cpu(), w) for g, w in pairs):
            failed.append(name)
    return failed


def _agree(got: Tensor, want: Tensor) -> bool:
    if got.dtype != want.dtype or got.shape != want.shape:
        return False
    if not want.is_floating_point():
        return torch.equal(got, want)
    error, size = (got.double() - want.double()).abs().max(), want.double().abs().max()
    return bool(error <= size * (2**-8 if want.dtype == torch.bfloat16 else 2**-20))


def check_models(device: str) -> list[tuple[str, float, float]]:
    """Model and recipe, cosine to the eager float model, median ms; the first row of each model is Inductor alone."""
    from lowbit_compiler.backend import lowbit  # nothing is installed, so no entry point finds "lowbit" by name
    from lowbit_compiler.recipe import RECIPES

    rows = []
    for name, (model, shape) in models().items():
        net = model.eval().requires_grad_(False).to(device, torch.bfloat16)
        x = torch.randn(shape).to(device, torch.bfloat16)
        runs: dict[str, Callable[..., Any]] = {"Inductor": torch.compile(net, fullgraph=True)}
        for recipe in RECIPES:
            runs[recipe] = torch.compile(net, backend=lowbit, fullgraph=True, options={"recipe": recipe})
        with torch.no_grad():
            want = net(x).double().flatten()
            cosines = [float(nn.functional.cosine_similarity(run(x).double().flatten(), want, 0)) for run in runs.values()]
            times = _interleaved([partial(run, x) for run in runs.values()], device)
        rows += [(f"{name}, {title}", cosine, ms) for title, cosine, ms in zip(runs, cosines, times, strict=True)]
        torch._dynamo.reset()
    return rows


def _interleaved(calls: list[Callable[[], Tensor]], device: str, rounds: int = 20) -> list[float]:
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, taken in zip(calls, times, strict=True):
            _wait(device)
            start = time.perf_counter()
            call()
            _wait(device)
            taken.append((time.perf_counter() - start) * 1e3)
    return [median(taken) for taken in times]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main(device: str) -> int:
    """Run the checks and print their results; returns the exit status."""
    typeview.make()
    sys.path.insert(0, str(typeview.VIEW))
    importlib.import_module("lowbit_compiler.runtime")  # registers the ops

    torch.manual_seed(0)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"gpu-check: {name}, torch {torch.__version__}, Python {sys.version.split()[0]}")
    failed = check_ops(device)
    print(
        f"{len(op_calls()) - len(failed)} of {len(op_calls())} ops agree with the CPU"
        + "".join(f"\n  WRONG: lowbit::{op}" for op in failed)
    )
    print(f"{'model, compiler':<40}{'cosine':>10}{'ms':>9}{'speed-up':>10}")
    base = 0.0
    for title, cosine, ms in check_models(device):
        base = ms if title.endswith("Inductor") else base
        wrong = not cosine > COSINE
        failed += [title] if wrong else []
        print(f"{title:<40}{cosine:>10.5f}{ms:>9.3f}{base / ms:>10.2f}{'  WRONG' if wrong else ''}")
    print(f"gpu-check: {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "cuda"  # "cpu": to try this script itself
    if chosen == "cuda" and not torch.cuda.is_available():
        print("gpu-check: no GPU that torch can use; nothing was checked")
        sys.exit(0)
    sys.exit(main(chosen))
