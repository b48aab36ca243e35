"""How far outputs are from the float model's, as losses that add up over independent errors: divergences, and squared relative errors."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from lowbit_compiler.debug.metric import Judge, first_tensor
from lowbit_compiler.errors import OptionError


class Divergence(ABC):
    """Compares outputs with those of the float model for the same inputs."""

    words: ClassVar[str]
    """What it is, for people."""

    def __init__(self, outputs: Iterable[Any]) -> None:
        self._remember(outputs)

    def loss(self, outputs: Iterable[Any]) -> float:
        """Return the loss over the outputs for the inputs 0, 1, ...; infinite where one is not finite."""
        parts = [self._part(output, number) for number, output in enumerate(outputs)]
        amount, weight = (sum(each) for each in zip(*parts, strict=True))
        loss = amount / weight if weight else math.inf if amount else 0.0
        return math.inf if math.isnan(loss) else max(loss, 0.0)

    @staticmethod
    def of(budget: float) -> float:
        """Return the loss that a budget stands for."""
        return budget

    @staticmethod
    def shown(loss: float) -> float:
        """Return the loss as a budget is given."""
        return loss

    @abstractmethod
    def _remember(self, outputs: Iterable[Any]) -> None: ...

    @abstractmethod
    def _part(self, output: Any, number: int) -> tuple[float, float]:
        """Return the amount of one output, and its weight."""


class Nats(Divergence):
    """The mean Kullback-Leibler divergence, in nats, of the distribution that each row of logits stands for.

    Raises OptionError where outputs have no logits [..., classes].
    """

    words = "divergence, nats"

    def _remember(self, outputs: Iterable[Any]) -> None:
        self._wanted = [first_tensor(output).clone() for output in outputs]
        for wanted in self._wanted:
            if wanted.dim() < 1 or wanted.shape[-1] < 2:
                raise OptionError(
                    f"metric 'kl' takes logits [..., classes] for outputs, got shape {tuple(wanted.shape)}; accepted: 'error'"
                )

    def _part(self, output: Any, number: int) -> tuple[float, float]:
        wanted, got = self._wanted[number], first_tensor(output)
        if got.shape != wanted.shape:
            raise OptionError(f"the low-bit model's output has shape {tuple(got.shape)}, the float model's {tuple(wanted.shape)}")
        rows = [each.reshape(-1, wanted.shape[-1]) for each in (wanted, got)]
        total = 0.0
        for some in zip(*(each.split(256) for each in rows), strict=True):  # not all logits at once in float32
            p, q = (torch.log_softmax(each.float(), -1) for each in some)
            total += float(_terms(p, q).sum(dtype=torch.float64))
        return total, float(len(rows[0]))


class RelativeError(Divergence):
    """The squared relative error (Judge); a budget limits the relative error itself."""

    words = "relative error"

    def _remember(self, outputs: Iterable[Any]) -> None:
        self._judge = Judge(first_tensor(output) for output in outputs)

    def _part(self, output: Any, number: int) -> tuple[float, float]:
        return self._judge.distance(output, number)

    @staticmethod
    def of(budget: float) -> float:
        """Return its square."""
        return budget**2

    @staticmethod
    def shown(loss: float) -> float:
        """Return its root."""
        return math.sqrt(loss)


METRICS: dict[str, type[Divergence]] = {"kl": Nats, "error": RelativeError}


def _terms(p: Tensor, q: Tensor) -> Tensor:
    """Return p (log p - log q) of logarithms, 0 where p is 0."""
    share = p.exp()
    return torch.where(share > 0, share * (p - q), torch.zeros_like(p))
