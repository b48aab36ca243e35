"""Attention against torch's CPU flash attention, interleaved; writes bench/results/attention.json.

    python bench/attention/table.py [--threads 2] [--rounds 9] [--dtypes bfloat16,float32] [--longest 8192]

Prefill is causal, its heads side by side in memory as a projection leaves them. Decode is one query against a cache that is dense by
head, as transformers keeps it. torch gets what suits it better: grouped heads as such (enable_gqa) or already expanded for free.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

HEADS = ((9, 3), (32, 8))
WIDTHS = (64, 128)
KEYS = (128, 512, 2048, 8192)


def operands(kind: str, heads: tuple[int, int], width: int, keys: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return query [1, H, L, E], key and value [1, G, S, E] with random values."""
    h, g = heads
    rows = keys if kind == "prefill" else 1
    q = torch.randn(1, rows, h, width).to(dtype).transpose(1, 2)
    k, v = (torch.randn(1, keys, g, width).to(dtype).transpose(1, 2) for _ in range(2))
    return (q, k, v) if kind == "prefill" else (q, k.contiguous(), v.contiguous())


def contestants(kind: str, q: Tensor, k: Tensor, v: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return ours and torch's calls on the same tensors."""
    group, causal = q.shape[1] // k.shape[1], kind == "prefill"
    wide_k, wide_v = (t.repeat_interleave(group, 1) for t in (k, v))
    return {
        "lowbit": lambda: torch.ops.lowbit.sdpa(q, k, v, None, causal, q.shape[-1] ** -0.5),
        "torch grouped": lambda: scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True),
        "torch expanded": lambda: scaled_dot_product_attention(q, wide_k, wide_v, is_causal=causal),
    }


def row(kind: str, heads: tuple[int, int], width: int, keys: int, dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    """Return one line of the table: medians in ms, and the median over rounds of the best of torch against ours."""
    times = common.interleaved(contestants(kind, *operands(kind, heads, width, keys, dtype)), rounds, 3e-3, settle=False)
    best = [min(pair) for pair in zip(times["torch grouped"], times["torch expanded"], strict=True)]
    return {
        "kind": kind,
        "dtype": str(dtype).removeprefix("torch."),
        "heads": f"{heads[0]}/{heads[1]}",
        "width": width,
        "keys": keys,
        **{name: statistics.median(t) * 1e3 for name, t in times.items()},
        "ratio": statistics.median(b / ours for b, ours in zip(best, times["lowbit"], strict=True)),
    }


def main() -> None:
    """Measure, print a table with its geometric mean, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dtypes", default="bfloat16,float32")
    parser.add_argument("--longest", type=int, default=KEYS[-1])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    console, rows = Console(), []
    table = Table(box=None, pad_edge=False)
    for name in ("kind", "dtype", "heads", "width", "keys", "lowbit ms", "torch grouped ms", "torch expanded ms", "times as fast"):
        table.add_column(name, justify="left" if name in ("kind", "dtype", "heads") else "right")
    cases = [
        (kind, heads, width, keys, getattr(torch, dtype))
        for dtype in args.dtypes.split(",")
        for kind in ("prefill", "decode")
        for heads in HEADS
        for width in WIDTHS
        for keys in KEYS
        if keys <= args.longest
    ]
    with console.status("") as status:
        for number, case in enumerate(cases, 1):
            status.update(f"{number} of {len(cases)}: {' '.join(map(str, case))}")
            # The longest prefills take seconds a call in torch.
            rows.append(row(*case, 3 if case[0] == "prefill" and case[3] >= 2048 else args.rounds))
            table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in rows[-1].values()))
    mean = math.exp(statistics.fmean(math.log(r["ratio"]) for r in rows))
    console.print(table)
    console.print(f"geometric mean {mean:.2f}, least {min(r['ratio'] for r in rows):.2f}")
    written = common.write("attention.json", {"about": common.about(threads=args.threads, **{"geometric mean": mean}), "rows": rows})
    console.print(f"written to {written}")


if __name__ == "__main__":
    main()
