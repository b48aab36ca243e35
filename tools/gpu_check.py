"""One command for a machine with an NVIDIA GPU: python tools/gpu_check.py

There are no CUDA kernels yet: checks that the plain-torch reference gives the same integers on the GPU, and that compiling for CUDA leaves
the model in float, as right and as fast as Inductor alone. Needs torch >= 2.11 and nothing installed: the package is read from the checkout. Without a GPU it
says so and ends with status 0; a wrong result ends with status 1.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import typeview

LENGTH = 512


def main() -> int:
    """Run the checks; returns the exit status."""
    if not torch.cuda.is_available():
        print(f"gpu-check: no GPU that torch {torch.__version__} can use; nothing was run")
        return 0
    typeview.make()
    sys.path.insert(0, str(typeview.VIEW))
    from lowbit_compiler.backend import lowbit
    from lowbit_compiler.recipe import RECIPES

    print(f"gpu-check: {torch.cuda.get_device_name()}, torch {torch.__version__}; sites on CUDA are declined: no kernels yet")
    failures = _check_ops()
    torch.manual_seed(0)
    model = Block().cuda().bfloat16().eval()
    x = torch.randn(LENGTH, 1024, device="cuda", dtype=torch.bfloat16)
    with torch.inference_mode():
        want = model(x)
        runs: dict[str, Callable[..., Any]] = {"float, Inductor": torch.compile(model, fullgraph=True)}
        for name in RECIPES:
            runs[name] = torch.compile(model, backend=lowbit, fullgraph=True, options={"recipe": name})
        print(f"{'':18} {'cosine':>8} {'ms':>8} {'ratio':>6}")
        base = 0.0
        for name, run in runs.items():
            cosine = torch.nn.functional.cosine_similarity(run(x).float().flatten(), want.float().flatten(), 0).item()
            milliseconds = _time(run, x)
            base = base or milliseconds
            wrong = cosine < 0.99
            failures += wrong
            print(f"{name:18} {cosine:8.5f} {milliseconds:8.3f} {base / milliseconds:6.2f}{'  WRONG' if wrong else ''}")
    print(f"gpu-check: {failures} failed")
    return int(failures > 0)


class Block(torch.nn.Module):
    """A feed-forward block with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.RMSNorm(1024)
        self.gate, self.up = torch.nn.Linear(1024, 4096, bias=False), torch.nn.Linear(1024, 4096, bias=False)
        self.down = torch.nn.Linear(4096, 1024, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output, same shape as ``x``."""
        y = self.norm(x)
        return x + self.down(torch.nn.functional.silu(self.gate(y)) * self.up(y))


def _check_ops() -> int:
    """Compare the integers of the quantizers on the GPU with those on the CPU; returns the number of failures."""
    failures = 0
    x = torch.randn(65, 1000)
    for name, arguments in (("quantize_s8", ()), ("quantize_s4", (64,)), ("rotate", ())):
        op = getattr(torch.ops.lowbit, name)
        here, there = op(x, *arguments), op(x.cuda(), *arguments)
        same = all(torch.equal(a, b.cpu()) for a, b in zip(*((r if isinstance(r, tuple) else (r,)) for r in (here, there)), strict=True))
        print(f"lowbit::{name:12} GPU equals CPU: {same}")
        failures += not same
    return failures


def _time(run: Callable[..., Any], x: torch.Tensor) -> float:
    """Return the median time of a call in milliseconds."""
    times = []
    for _ in range(30):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run(x)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[5:]) * 1e3


if __name__ == "__main__":
    sys.exit(main())
