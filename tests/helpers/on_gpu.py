"""The ops on a GPU, called with CPU tensors as helpers/emulated.py is: the same tests serve both."""

from typing import Any

import torch
from torch import Tensor

L = torch.ops.lowbit


def moved(value: Any) -> Any:
    """Return ``value`` on the GPU; a tensor keeps its strides and what lies between its elements."""
    if not isinstance(value, Tensor):
        return value
    whole = torch.as_strided(value, (value.untyped_storage().nbytes() // value.itemsize,), (1,), 0)
    return torch.as_strided(whole.cuda(), value.shape, value.stride(), value.storage_offset())


class OnGpu:
    """The ops with a CUDA kernel, under their own names and arguments."""

    def quantize_s8(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes and scales of ``x`` [rows, columns]."""
        q, scale = L.quantize_s8(moved(x))
        return q.cpu(), scale.cpu()

    def quantize_s4(self, w: Tensor, group: int) -> tuple[Tensor, Tensor]:
        """Return codes and group scales of ``w`` [N, K]."""
        q, scale = L.quantize_s4(moved(w), group)
        return q.cpu(), scale.cpu()

    def rotate(self, x: Tensor) -> Tensor:
        """Return ``x`` rotated, padded to a multiple of 64 columns."""
        return torch.as_tensor(L.rotate(moved(x)).cpu())

    def pack(self, q: Tensor, scale: Tensor, group: int, like: Tensor) -> Tensor:
        """Return packed codes; ``group`` 0 for int8."""
        packed = L.pack_s4(moved(q), moved(scale), group) if group else L.pack_s8(moved(q), moved(scale))
        assert packed.shape == like.shape
        return torch.as_tensor(packed.cpu())

    def linear(self, op: str, x: Tensor, *rest: Any) -> Tensor:
        """Return what ``op``, a linear with a kernel, makes of ``x`` [M, K]; ``rest`` as in the op."""
        return torch.as_tensor(getattr(L, op)(moved(x), *map(moved, rest)).cpu())

    def softmax(self, x: Tensor, scale: float, mask: Tensor | None, log: bool, dtype: torch.dtype | None, dim: int = 1) -> Tensor:
        """Return the softmax along ``dim``; ``mask`` broadcasts to ``x``."""
        return torch.as_tensor(L.softmax(moved(x), dim, scale, moved(mask), log, dtype).cpu())
