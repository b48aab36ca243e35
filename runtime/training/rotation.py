"""Rotations of both operands by a block Hadamard matrix, along the dimension that the product sums over."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.runtime.training.noise import Stream
from lowbit_compiler.runtime.treatments.rotation import hadamard
from lowbit_compiler.runtime.treatments.treatment import Call, Treatment


@dataclass(frozen=True)
class InBlocks(Treatment):
    """``(x H)(w H)^T = x w^T`` for the matrix ``H`` of blocks of ``block`` (arXiv 2306.11987, section 3.2)."""

    block: int

    name = "rotation in blocks"
    rotates = True

    def signs(self, x: Tensor) -> Tensor:
        """Return what the elements of a row of ``x`` [..., K padded] are multiplied by before they are rotated: nothing."""
        return x.new_ones(())

    def padded(self, k: int) -> int:
        """Whole blocks."""
        return -(-k // self.block) * self.block

    def activation(self, call: Call, x: Any) -> tuple[Any, Any]:
        """Signs, then the matrix: in the other order they would change nothing in a format that is the same for both signs."""
        x = torch.nn.functional.pad(x, (0, -x.shape[-1] % self.block))
        return hadamard(x * self.signs(x), self.block), None

    def weight(self, call: Call, w: Any) -> Any:
        """As activations."""
        return self.activation(call, w)[0]

    def transposed(self, g: Tensor, k: int) -> Tensor:
        """The matrix, which is symmetric, then the signs."""
        return (hadamard(g, self.block) * self.signs(g))[..., :k]


@dataclass(frozen=True)
class Signed(InBlocks):
    """``(x D H)(w D H)^T = x w^T`` with random signs ``D``: those of ``stream``, or one choice for all calls.

    Without signs the first element of each block gathers the block's mean, and becomes the outlier that the rotation is to remove.
    """

    stream: Stream | None = None

    name = "signed rotation"

    def drawn(self, stream: Stream) -> Treatment:
        """Return the rotation with the signs of ``stream``."""
        return replace(self, stream=stream)

    def signs(self, x: Tensor) -> Tensor:
        """The same in each block."""
        stream = self.stream or Stream.of(torch.zeros(1, dtype=torch.int64, device=x.device))
        return stream.signs(self.block).repeat(x.shape[-1] // self.block)
