"""How good a model's outputs are: perplexity where it computes a loss, else their distance from the float model's, or what the user says."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.debug.replay import floats
from lowbit_compiler.errors import OptionError

Metric = Callable[[Any], float]
"""Takes what the model returned; lower is better."""


@dataclass(frozen=True)
class Score:
    """Of one run over all inputs."""

    value: float
    """Perplexity, relative error, or mean of the user's metric."""
    change: float
    """What the budget limits: the relative change of ``value``, or the relative error itself."""


class Judge:
    """Scores runs against the float model's outputs: the mean loss as perplexity, its exponential, where outputs have one.

    The relative error is ``|y - y_float| / |y_float|`` over the first float tensor of each output that is not a single number (the logits
    of a language model), in float64, over the elements that are finite in the float model; infinite where one of these is not finite.
    """

    def __init__(self, outputs: Iterable[Any], metric: Metric | None = None) -> None:
        self._metric = metric
        self._wanted: list[_Wanted] = []
        values = []
        for output in outputs:
            self._wanted.append(_Wanted.of(first_tensor(output)))
            values.append(self._value(output))
        self.kind = "metric" if metric is not None else "relative error" if None in values else "perplexity"
        if self.kind == "relative error" and not any(want.known is None or bool(want.known.any()) for want in self._wanted):
            raise OptionError("no element of the float model's outputs is finite: there is nothing to compare with")
        self.before = 0.0 if self.kind == "relative error" else self._mean(values)
        if not math.isfinite(self.before) or (self.before == 0.0 and self.kind != "relative error"):
            raise OptionError(f"{self.kind} of the float model is {self.before}: a budget relative to it has no meaning")

    def score(self, outputs: Iterable[Any]) -> Score:
        """Return the score of the outputs for the same inputs, in the same order; each is dropped before the next is asked for."""
        if self.kind == "relative error":
            noise = signal = 0.0
            for number, output in enumerate(outputs):
                part, of = self.distance(output, number)
                noise, signal = noise + part, signal + of
            error = relative(noise, signal)
            return Score(error, error)
        value = self._mean([self._value(output) for output in outputs])
        change = (value - self.before) / abs(self.before)
        return Score(value, math.inf if math.isnan(change) else change)

    def distance(self, output: Any, number: int) -> tuple[float, float]:
        """Return the squared error of the output for input ``number`` against the float model's, and the squared norm of that."""
        want = self._wanted[number]
        return want.noise(first_tensor(output)), want.signal

    def _value(self, output: Any) -> float | None:
        if self._metric is None:
            return _loss(output)
        try:
            return float(self._metric(output))
        except Exception as error:
            name = getattr(self._metric, "__name__", "the metric")
            raise OptionError(f"{name}, given a {type(output).__name__}, raised {type(error).__name__}: {error}") from error

    def _mean(self, values: list[float | None]) -> float:
        mean = sum(math.nan if value is None else value for value in values) / len(values)
        if self.kind == "metric":
            return mean
        return math.exp(min(mean, 709.0)) if not math.isnan(mean) else mean  # e^709 is the largest that fits


def relative(noise: float, signal: float) -> float:
    """Return the relative error of a squared error and a squared norm."""
    return math.sqrt(noise / signal) if signal else math.inf if noise else 0.0


def _loss(output: Any) -> float | None:
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    return float(loss) if isinstance(loss, Tensor) and loss.numel() == 1 else None


def first_tensor(output: Any) -> Tensor:
    """Return the first float tensor of an output that is not a single number; raises OptionError where it holds none."""
    found = [tensor.detach() for tensor in floats(output)]
    if not found:
        raise OptionError(f"the model's output holds no float tensor, got {type(output).__name__}; return one, or a tuple or dict of them")
    return next((tensor for tensor in found if tensor.numel() > 1), found[0])


@dataclass(frozen=True)
class _Wanted:
    """One output of the float model; its elements that are not finite have nothing to be compared with."""

    tensor: Tensor
    known: Tensor | None
    """bool, where not all are finite."""
    signal: float
    """Squared norm."""

    @classmethod
    def of(cls, tensor: Tensor) -> "_Wanted":
        tensor = tensor.clone()  # it may be a buffer or a cache, which the next run writes to
        known = torch.isfinite(tensor)
        mask = None if bool(known.all()) else known
        return cls(tensor, mask, _square(tensor if mask is None else tensor[mask]))

    def noise(self, got: Tensor) -> float:
        """Return the squared error of ``got``; infinite where it is not finite and should be."""
        if got.shape != self.tensor.shape:
            raise OptionError(f"the low-bit model's output has shape {tuple(got.shape)}, the float model's {tuple(self.tensor.shape)}")
        pairs: Iterable[tuple[Tensor, Tensor]] = zip(_slices(got), _slices(self.tensor), strict=True)  # not all logits at once in float32
        if self.known is not None:
            pairs = [(got[self.known], self.tensor[self.known])]
        total = sum(_square(_wide(a) - _wide(b)) for a, b in pairs)
        return math.inf if math.isnan(total) else total


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype is torch.float64 else tensor.float()


def _square(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(_wide(tensor), dtype=torch.float64)) ** 2


def _slices(tensor: Tensor) -> Sequence[Tensor]:
    return torch.split(tensor.flatten(), 1 << 22)
