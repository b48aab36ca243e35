"""Rows in blocks along K, of which the last may be short."""

import torch
from torch import Tensor


def padded_blocks(x: Tensor, block: int) -> Tensor:
    """Return ``x`` [..., K] as [..., ceil(K / block), block], padded with zeros."""
    padded = torch.nn.functional.pad(x, (0, -x.shape[-1] % block))
    return padded.reshape(*x.shape[:-1], padded.shape[-1] // block, block)


def joined_blocks(blocks: Tensor, k: int) -> Tensor:
    """Invert :func:`padded_blocks`: the first ``k`` elements of ``blocks`` [..., G, block] as [..., k]."""
    return blocks.flatten(-2)[..., :k].clone(memory_format=torch.contiguous_format)
