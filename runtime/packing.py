"""What all packed layouts share: 16 output rows a panel, K in blocks of 64 (docs/arithmetic.md, "Packed weights")."""

import math

import torch
from torch import Tensor

PANEL = 16
K_BLOCK = 64


def round_up(value: int, multiple: int) -> int:
    """Return the smallest multiple of ``multiple`` that is >= ``value``."""
    return -(-value // multiple) * multiple


def padded_k(k: int, group: int = K_BLOCK) -> int:
    """Return K as stored: a multiple of 64 and of the group size."""
    return round_up(k, math.lcm(K_BLOCK, group))


def aligned(part: Tensor) -> Tensor:
    """Return ``part`` of a packed weight where every dtype may lie; it may start anywhere, and contiguous() would leave it there."""
    return part.clone(memory_format=torch.contiguous_format)
