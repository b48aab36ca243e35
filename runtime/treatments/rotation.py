"""Rotation of both operands by a block Hadamard matrix, so that no element stands out (arXiv 2306.11987, section 3; here for inference)."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.format import EPS, FLUSHED, largest_of
from lowbit_compiler.runtime.treatments.treatment import Call, Op, Treatment, packet

HADAMARD = 64
ROTATED = 56 * EPS
"""Error of a rotated element over the row's largest: six sums of terms that are at most 8 times as large."""


def rotate(x: Tensor) -> Tensor:
    """Multiply ``x`` [..., K] by the orthogonal block-Hadamard matrix of block 64; float32 [..., Kp], K padded with zeros."""
    return hadamard(torch.nn.functional.pad(x.float(), (0, -x.shape[-1] % HADAMARD)), HADAMARD)


def hadamard(x: Tensor, block: int) -> Tensor:
    """Multiply ``x`` float32 [..., K] by the orthogonal matrix of blocks of ``block``, a power of two that divides K."""
    v = x * math.sqrt(1 / block)
    half = 1
    while half < block:
        u = v.reshape(*x.shape[:-1], x.shape[-1] // (2 * half), 2, half)
        v = torch.stack([u[..., 0, :] + u[..., 1, :], u[..., 0, :] - u[..., 1, :]], -2)
        half *= 2
    return v.reshape(x.shape)


def stage(half: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the matrix [64, 64] that takes pairs at distance ``half`` to sum and difference; the first also multiplies by 2^-3.

    Products with all of them, from 1 to 32, are a rotation in which each sum has two terms: those of exits.
    """
    index = np.arange(HADAMARD)
    upper = (index & half) != 0
    matrix = np.zeros((HADAMARD, HADAMARD), np.float32)
    matrix[index, index] = np.where(upper, -1.0, 1.0)
    matrix[index ^ half, index] = 1.0
    return matrix * np.float32(2.0**-3) if half == 1 else matrix


def _shape(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], -(-x.shape[-1] // HADAMARD) * HADAMARD), dtype=torch.float32)


@dataclass(frozen=True)
class Rotation(Treatment):
    """``(x H)(w H)^T = x w^T`` for the orthogonal ``H``."""

    name = "rotation"
    ops = (Op("rotate(Tensor x) -> Tensor", rotate, _shape),)
    span = HADAMARD
    rotates = True

    def activation(self, call: Call, x: Any) -> tuple[Any, Any]:
        """Rotate."""
        return call(packet("rotate"), x), None

    def weight(self, call: Call, w: Any) -> Any:
        """Rotate."""
        return call(packet("rotate"), w)

    def untreated(self, call: Call, w: Any, k: int) -> Any:
        """Rotate once more: the matrix is its own inverse."""
        rotated = call(packet("rotate"), w)
        return rotated if k % HADAMARD == 0 else call(torch.ops.aten.slice.Tensor, rotated, 1, 0, k)

    def padded(self, k: int) -> int:
        """Whole blocks."""
        return -(-k // HADAMARD) * HADAMARD

    def moved(self, x: Tensor) -> Tensor:
        """Six stages of sums."""
        return ROTATED * largest_of(x).double() + FLUSHED
