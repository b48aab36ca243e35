"""SmolLM2-135M-Instruct, whole model: Inductor and recipes in one interleaved run, with compile times.

python bench/models/smollm2.py [--tokens 512] [--recipes int8,llm-int8] [--dtype bfloat16] [--rounds 15]

Each contestant compiles with cold caches of its own, so that compile times compare; then they take turns, and medians of the same
rounds are compared. One forward pass, batch 1, no cache.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

from lowbit_compiler.demo import model

ATTENTION = ("aten::_scaled_dot_product_flash_attention_for_cpu", "lowbit::sdpa")


def main() -> None:
    """Measure, print a table, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--recipes", default="int8")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    console = Console()
    loaded = model.load(getattr(torch, args.dtype), console)
    ids = torch.randint(0, 40000, (1, args.tokens), generator=torch.Generator().manual_seed(0))
    names = ["inductor", *args.recipes.split(",")]
    rows: dict[str, dict[str, float]] = {}
    runs: dict[str, Callable[[Tensor], Tensor]] = {}
    with torch.inference_mode():
        for name in names:
            options: dict[str, Any] = {"backend": "inductor"} if name == "inductor" else {"backend": "lowbit", "options": {"recipe": name}}
            runs[name], seconds = _compile(loaded.model, ids, options)
            rows[name] = {"compile_s": seconds}
            console.print(f"{name}: compiled in {seconds:.1f} s")
        times = common.interleaved({name: partial(run, ids) for name, run in runs.items()}, args.rounds, 0, settle=False)
        for name, run in runs.items():
            rows[name]["attention_ms"] = _attention_ms(run, ids)
    for name in names:
        rows[name]["ms"] = statistics.median(times[name]) * 1e3
        rows[name]["ratio"] = statistics.median(a / b for a, b in zip(times["inductor"], times[name], strict=True))
    console.print(_table(rows, args.tokens, args.dtype))
    about = common.about(threads=torch.get_num_threads(), dtype=args.dtype, tokens=args.tokens)
    console.print(f"written to {common.write(f'smollm2_{args.dtype}_{args.tokens}.json', {'about': about, 'rows': rows})}")


def _compile(net: Any, ids: Tensor, options: dict[str, Any]) -> tuple[Callable[[Tensor], Tensor], float]:
    from torch._inductor.utils import fresh_cache

    def forward(x: Tensor) -> Tensor:
        logits: Tensor = net(x, use_cache=False).logits
        return logits

    compiled = torch.compile(forward, fullgraph=True, dynamic=False, **options)
    with fresh_cache(dir=tempfile.gettempdir(), delete=False):
        start = time.perf_counter()
        compiled(ids)
        return compiled, time.perf_counter() - start


def _attention_ms(run: Callable[[Tensor], Tensor], ids: Tensor, repeats: int = 5) -> float:
    """Return the milliseconds a step spends in attention ops."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(repeats):
            run(ids)
    return sum(e.cpu_time_total for e in profile.key_averages() if e.key in ATTENTION) / repeats / 1e3


def _table(rows: dict[str, dict[str, float]], tokens: int, dtype: str) -> Table:
    table = Table(title=f"SmolLM2-135M, {dtype}, {tokens} tokens, one interleaved run", title_justify="left")
    for name in ("", "ms", "times as fast as Inductor", "attention ms", "compile s", "against Inductor's"):
        table.add_column(name, justify="left" if not name else "right")
    base = rows["inductor"]["compile_s"]
    for name, row in rows.items():
        table.add_row(
            name,
            f"{row['ms']:.1f}",
            f"{row['ratio']:.2f}",
            f"{row['attention_ms']:.1f}",
            f"{row['compile_s']:.1f}",
            f"{row['compile_s'] / base:.2f}",
        )
    return table


if __name__ == "__main__":
    main()
