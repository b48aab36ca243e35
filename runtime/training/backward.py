"""The products of the backward pass: what the gradient and the saved operand are quantized to, and how they meet.

Both have one form, ``g s``: of dX, ``g`` is dY [M, N] and ``s`` the weight [N, K]; of dW, ``g`` is dY^T [N, M] and ``s`` the activation [M, K].
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lowbit_compiler.runtime.formats import Operand
from lowbit_compiler.runtime.training.matrix import Matrix, integer_product, multiply
from lowbit_compiler.runtime.training.noise import Stream
from lowbit_compiler.runtime.treatments import Nothing, Treatment
from lowbit_compiler.runtime.treatments.treatment import at_once

INPUT, WEIGHT = 1, 2
"""Which product of a linear it is."""
GRADIENT, SAVED, TREATMENT, SAMPLING = range(4)
"""Who reads random numbers in one product: each has a stream of its own."""
Saved = Matrix | Tensor
"""The other operand of the forward product: as it was quantized there, or float32 where it was not."""


@dataclass(frozen=True)
class Draw:
    """Where the random numbers of one product come from: the seed of the call int64 [1], the site, and which of its products it is."""

    seed: Tensor
    site: int
    product: int

    def stream(self, reader: int) -> Stream:
        """Return the stream of one reader."""
        return Stream.of(self.seed, self.site, self.product, reader)


class Backward(ABC):
    """How one product of the backward pass is computed."""

    @abstractmethod
    def product(self, g: Tensor, s: Saved, draw: Draw) -> Tensor:
        """Return ``g s`` float32 [R, K] for ``g`` float32 [R, C] and ``s`` [C, K]."""

    @property
    @abstractmethod
    def name(self) -> str:
        """For people: gradient x saved operand."""


@dataclass(frozen=True)
class Float(Backward):
    """The gradient stays float, and meets the numbers that the saved operand stands for."""

    name = "float x saved"

    def product(self, g: Tensor, s: Saved, draw: Draw) -> Tensor:
        """A float32 product."""
        return g @ (s.value if isinstance(s, Matrix) else s)


@dataclass(frozen=True)
class Folded(Backward):
    """The saved codes are taken as they are: their scales, one for each of the summed elements, are multiplied into the gradient first."""

    gradient: Operand

    @property
    def name(self) -> str:
        """The gradient's format."""
        return f"{self.gradient.name} x saved codes"

    def product(self, g: Tensor, s: Saved, draw: Draw) -> Tensor:
        """Exact sums of integers, times the scale of the gradient's row."""
        assert isinstance(s, Matrix)
        if g.shape[1] == 0:
            return g.new_zeros(g.shape[0], s.codes.shape[1])  # no format has blocks of nothing
        codes = Matrix.of(self.gradient, g * s.unit.reshape(1, -1), draw.stream(GRADIENT))
        return integer_product(codes.codes, s.codes) * codes.unit


@dataclass(frozen=True)
class Requantized(Backward):
    """Both are quantized along the sum of this product: blocks of the forward product lie the other way."""

    gradient: Operand
    saved: Operand
    treatment: Treatment = field(default_factory=Nothing)

    @property
    def name(self) -> str:
        """Both formats and the treatment."""
        treated = "" if self.treatment == Nothing() else f" {self.treatment.name}"
        return f"{self.gradient.name} x {self.saved.name}{treated}"

    def product(self, g: Tensor, s: Saved, draw: Draw) -> Tensor:
        """Treat, quantize, multiply."""
        treatment = self.treatment.drawn(draw.stream(TREATMENT))
        other: Any = s.value if isinstance(s, Matrix) else s
        a, b = treatment.activation(at_once, g)[0], treatment.weight(at_once, other.t().contiguous())
        return multiply(
            Matrix.of(self.gradient, a, draw.stream(GRADIENT)),
            Matrix.of(self.saved, b, draw.stream(SAVED)),
        )
