"""What is known of the inputs of linears: ``H = X^T X / n``, shared by those that read one tensor (q, k and v; gate and up).

Half the second derivative of the squared error of a linear's outputs by any row of its weight (GPTQ, arXiv 2210.17323, section 3.1).
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lowbit_compiler.preparing.layer import Layer, inputs_of
from lowbit_compiler.runtime.treatments import Treatment
from lowbit_compiler.runtime.treatments.treatment import at_once


@dataclass(eq=False)
class Inputs:
    """Sums over the rows that some linears of one input have read so far; all in float32."""

    layers: list[Layer]
    square: Tensor
    """[K, K]: of x x^T."""
    total: Tensor
    """[K]: of x."""
    low: Tensor
    """[K]: the least of x."""
    high: Tensor
    """[K]: the greatest of x."""
    rows: int = 0

    @classmethod
    def of(cls, layer: Layer) -> "Inputs":
        """Return what nothing was added to."""
        k, device = layer.module.in_features, layer.module.weight.device
        empty = torch.zeros(k, device=device)
        return cls([layer], torch.zeros(k, k, device=device), empty, torch.full_like(empty, torch.inf), torch.full_like(empty, -torch.inf))

    def add(self, x: Tensor) -> None:
        """Add the rows ``x`` [M, K]."""
        if len(x):
            self.square.addmm_(x.t(), x)
            self.total = self.total + x.sum(0)
            self.low, self.high = torch.minimum(self.low, x.amin(0)), torch.maximum(self.high, x.amax(0))
            self.rows += len(x)

    def alone(self, layer: Layer) -> "Inputs":
        """Return a copy for ``layer``, which reads another tensor from now on."""
        self.layers.remove(layer)
        return Inputs([layer], self.square.clone(), self.total, self.low, self.high, self.rows)

    @property
    def mean(self) -> Tensor:
        """[K]: of x."""
        return self.total / self.rows

    @property
    def hessian(self) -> Tensor:
        """[K, K]: the mean of x x^T."""
        return self.square / self.rows


def treated(hessian: Tensor, treatment: Treatment) -> Tensor:
    """Return the hessian [K, K] of treated inputs, [K padded, K padded]: R^T H R, where the treatment multiplies rows by an orthogonal R."""
    half = treatment.weight(at_once, hessian)
    return treatment.weight(at_once, half.t().contiguous())  # type: ignore[no-any-return]


@dataclass
class _Seen:
    found: dict[Layer, Inputs] = field(default_factory=dict)
    latest: dict[Inputs, Tensor] = field(default_factory=dict)
    """The tensor that was added last; held, so that no other one gets its identity."""

    def read(self, layer: Layer, x: Tensor) -> None:
        mine = self.found.get(layer)
        if mine is None:
            mine = next((other for other, tensor in self.latest.items() if tensor is x), None)
            if mine is None:
                mine = Inputs.of(layer)
            else:
                mine.layers.append(layer)
            self.found[layer] = mine
        if self.latest.get(mine) is x:
            return
        if mine.layers[0] is not layer:
            mine = self.found[layer] = mine.alone(layer)
        self.latest[mine] = x
        mine.add(inputs_of(layer, x))


@contextlib.contextmanager
def watched(layers: Sequence[Layer]) -> Iterator[list[Inputs]]:
    """Add up the inputs of ``layers`` while the context lasts; the list is filled at its end, and has none for a layer that was not called."""
    seen, result = _Seen(), list[Inputs]()
    hooks = []
    for layer in layers:

        def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], layer: Layer = layer) -> None:
            seen.read(layer, args[0] if args else kwargs["input"])

        hooks.append(layer.module.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield result
        result += dict.fromkeys(seen.found.values())
    finally:
        for handle in hooks:
            handle.remove()
