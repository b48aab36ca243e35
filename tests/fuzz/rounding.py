"""How far roundings may move the results of a float model: its runs with every operation moved at random by what it may round."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

EPS = 2.0**-24  # unit roundoff of float32, in which products and sums of every dtype are accumulated
RUNS = 3
PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}
"""Product -> position of its first factor."""
SUMS = ("sum", "mean", "logsumexp", "native_layer_norm", "_fused_rms_norm", "convolution")


class Rounding(TorchDispatchMode):
    """Moves each element that an operation computes by up to eps of its dtype, and of the sums behind it.

    A product of K terms moves by ``2 EPS sqrt(K) |a| |b|``, an attention by ``16 EPS`` of its largest value, a sum by ``8 EPS`` of the
    largest result.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        aliases = [value.alias_info for value in func._schema.returns]
        if any(alias is not None and not alias.is_write for alias in aliases):
            return result  # a view
        name = func._schema.name.partition("::")[2]
        sums = _sums(name, args, result)
        if any(alias is not None for alias in aliases):
            if isinstance(result, Tensor) and result.is_floating_point():
                result.copy_(_moved(result, sums))
            return result
        return tree_map_only(Tensor, lambda y: _moved(y, sums) if y.is_floating_point() else y, result)


def _sums(name: str, args: Any, result: Any) -> Tensor | float:
    if name in PRODUCTS:
        a, b = args[PRODUCTS[name]], args[PRODUCTS[name] + 1]
        return 2 * EPS * a.shape[-1] ** 0.5 * (a.double().abs() @ b.double().abs())  # type: ignore[no-any-return]
    if name.startswith("_scaled_dot_product") and args[2].numel():
        return 16 * EPS * float(args[2].abs().max())
    if name in SUMS:
        y = result[0] if isinstance(result, tuple) else result
        return 8 * EPS * float(y.double().abs().nan_to_num(0, 0, 0).max()) if y.numel() else 0.0
    return 0.0


def _moved(y: Tensor, sums: Tensor | float) -> Tensor:
    size = torch.finfo(y.dtype).eps * y.double().abs()
    if not isinstance(sums, Tensor) or sums.shape == y.shape:
        size = size + sums
    moved = (y.double() + size * (2 * torch.rand(y.shape, dtype=torch.float64) - 1)).to(y.dtype)
    return torch.where(torch.isfinite(y) & torch.isfinite(moved), moved, y)


def radius(run: Callable[[], Sequence[Tensor]], want: Sequence[Tensor]) -> list[Tensor]:
    """Return how far the results of ``run`` move, row by row: the root mean square over the last dimension, the largest of some runs."""
    sizes = [torch.zeros(()) for _ in want]
    for seed in range(RUNS):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            with Rounding():
                moved = run()
        sizes = [torch.maximum(size, distance(a, b)) for size, a, b in zip(sizes, moved, want, strict=True)]
    return sizes


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the root mean square of the difference of the rows of two tensors, infinite where only one of two elements is a number."""
    a, b = (x.detach().double().reshape(-1, x.shape[-1] if x.dim() else 1) for x in (a, b))
    difference = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, a - b).nan_to_num(nan=torch.inf)
    return difference.square().mean(-1).sqrt() if difference.numel() else torch.zeros(())
