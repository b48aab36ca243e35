"""Weights and rows for the tests of ops and kernels."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor

from helpers import plain

L = torch.ops.lowbit
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

T = TypeVar("T")


def generator(seed: int) -> torch.Generator:
    """Return a seeded generator."""
    return torch.Generator().manual_seed(seed)


def rows(m: int, k: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Return random rows with a few outlier columns and single outliers."""
    g = generator(seed)
    x = torch.randn(m, k, generator=g)
    x[:, torch.randint(k, (max(k // 40, 1),), generator=g)] *= 30
    if m and k:
        x[torch.arange(m), torch.randint(k, (m,), generator=g)] *= 50
    return x.to(dtype)


def weight(n: int, k: int, seed: int = 1) -> Tensor:
    """Return a random float32 weight [n, k]."""
    return torch.randn(n, k, generator=generator(seed)) / max(k, 1) ** 0.5


def codes(n: int, k: int, seed: int = 2, largest: int = 127) -> Tensor:
    """Return random int8 codes [n, k] that reach +-``largest``."""
    q = torch.randint(-largest, largest + 1, (n, k), generator=generator(seed), dtype=torch.int8)
    q[:, 0] = largest
    return q


def packed_s8(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the packed weight, its codes [N, K] and scales [N, 1]."""
    q, scale = plain.quantize_s8(w)
    return L.pack_s8(q, scale), q, scale


def special_rows(k: int) -> dict[str, Tensor]:
    """Return float32 rows that int8 cannot hold, or barely."""
    base = torch.randn(k, generator=generator(7))
    made = {}
    for name, value in {"nan": float("nan"), "inf": float("inf"), "-inf": -float("inf")}.items():
        made[name] = base.clone()
        made[name][k // 2] = value
    made["inf and -inf"] = made["inf"].clone()
    made["inf and -inf"][k // 3] = -float("inf")
    made["zeros"] = torch.zeros(k)
    made["below empty"] = base.sign() * 2.0**-121
    made["at empty"] = base.sign() * 2.0**-120
    made["subnormal"] = base.sign() * 2.0**-140
    made["huge"] = base.sign() * 2.0**100
    made["ties"] = torch.arange(k).float() % 127 + 0.5
    made["ties"][0] = 127
    return made


def overflowing_row(k: int) -> Tensor:
    """Return finite float32 values whose rotation is not."""
    return torch.full((k,), 3e38)


def hit_columns(x: Tensor, threshold: float) -> Tensor:
    """Return the part of ``x`` that the treatment ``columns`` keeps exact."""
    return plain.split_columns(x, threshold)[1]


def on_threads(counts: Iterable[int], call: Callable[[], T]) -> list[T]:
    """Return the results of ``call``, one for each number of torch's threads."""
    before = torch.get_num_threads()
    results: list[T] = []
    try:
        for threads in counts:
            torch.set_num_threads(threads)
            results.append(call())
    finally:
        torch.set_num_threads(before)
    return results
