"""Quantized weights that were made beforehand, with more than the weight in view: a compiled model takes them in place of its own.

They are kept at the module whose weight they are of (runtime/attached.py).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lowbit_compiler.runtime.attached import Attached
from lowbit_compiler.runtime.fingerprint import can_read, content
from lowbit_compiler.runtime.formats import Operand
from lowbit_compiler.runtime.treatments import Treatment
from lowbit_compiler.runtime.weights import is_freed, where


class Prepared(Attached):
    """The parts of one module's ``weight`` [N, K] in ``operand``, after ``treatment``: codes [N, K padded] and what belongs to them.

    ``method`` says who made them. They hold for the weight as it was then; whether it still is, :meth:`is_of` tells.
    """

    attribute = "_lowbit_prepared"

    def __init__(self, module: nn.Module, operand: Operand, treatment: Treatment, parts: tuple[Tensor, ...], method: str) -> None:
        self.operand, self.treatment, self.method = operand, treatment, method
        self.parts = tuple(part.detach().cpu() for part in parts)
        super().__init__(module)
        weight = _weight(module)
        assert weight is not None
        self._content = fingerprint(weight)

    @property
    def weight(self) -> Tensor | None:
        """The weight of the module; None where that has gone, or has other prepared tensors by now."""
        module = self.module
        return None if module is None else _weight(module)

    def is_of(self, weight: Tensor) -> bool:
        """Return whether ``weight`` has the bytes that the parts were made of (what was freed cannot change)."""
        return is_freed(weight) or fingerprint(weight) == self._content


def attached(model: nn.Module) -> Iterator[tuple[str, Prepared]]:
    """Yield the prepared tensors in ``model``, with the names of their modules."""
    for name, module in model.named_modules():
        if isinstance(found := vars(module).get(Prepared.attribute), Prepared):
            yield name, found


def known() -> dict[Any, Prepared]:
    """Return all there are in this process, by where the weight is in memory (``weights.where``)."""
    found = ((prepared, prepared.weight) for prepared in Prepared.everywhere())
    return {where(weight): prepared for prepared, weight in found if weight is not None}


def fingerprint(weight: Tensor) -> tuple[Any, ...]:
    """Return what is equal where dtype, shape and bytes are, on any device."""
    plain = weight.detach()
    return str(plain.dtype), tuple(plain.shape), content(plain if can_read(plain) else plain.cpu())


def _weight(module: nn.Module) -> Tensor | None:
    weight = module._parameters.get("weight")
    return weight if isinstance(weight, Tensor) and weight.layout is torch.strided else None
