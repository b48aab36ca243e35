"""A linear whose weight is low-bit: what loaded models have in place of ``nn.Linear``."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lowbit_compiler.checkpoints.scheme import WEIGHT, Scheme
from lowbit_compiler.runtime.treatments.treatment import at_once
from lowbit_compiler.runtime.widths import Width


class StoredLinear(nn.Module):
    """``x @ w.T + bias`` for the weight [N, K] that its tensors stand for, dequantized at every call.

    torch.compile(backend="lowbit") takes the tensors as they are (passes/stored.py), so nothing is dequantized there. They keep their dtypes when
    the model is converted to another.
    """

    def __init__(self, k: int, n: int, scheme: Scheme, bias: torch.dtype | None, device: Any = "meta") -> None:
        """Have empty tensors; ``bias`` is the dtype of the bias, None where there is none."""
        super().__init__()
        self.in_features, self.out_features, self.scheme = k, n, scheme
        self._stored = scheme.tensors(n, k)
        for name, (shape, dtype) in self._stored.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False))
        self.bias = None if bias is None else nn.Parameter(torch.empty(n, dtype=bias, device=device), requires_grad=False)
        if scheme.bits is not None:
            Width(self, scheme.bits).attach()
        self.eval()

    @classmethod
    def like(cls, linear: nn.Linear, scheme: Scheme, device: Any = "meta") -> "StoredLinear":
        """Return an empty one of the sizes of ``linear``."""
        bias = None if linear.bias is None else linear.bias.dtype
        return cls(linear.in_features, linear.out_features, scheme, bias, device)

    def fill(self, tensors: dict[str, Tensor]) -> None:
        """Take ``tensors``, of the scheme's shapes and dtypes."""
        for name, tensor in tensors.items():
            self._parameters[name] = nn.Parameter(tensor, requires_grad=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tensors of the weight."""
        return tuple(self._stored)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the weight."""
        return {name: self._parameters[name] for name in self._stored}  # type: ignore[misc]

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The weight in its operand: codes [N, K padded] and what belongs to them."""
        return self.scheme.parts(self._parameters, self._columns)  # type: ignore[arg-type]

    @property
    def _columns(self) -> int:
        """K; where the weight is cut over processes by columns and the tensors are the part of this one, its share."""
        held = self._parameters[WEIGHT].shape[1]  # type: ignore[union-attr]
        return self.in_features if held == self._stored[WEIGHT][0][1] else self.scheme.columns(held)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., N]."""
        return nn.functional.linear(x, self.dequantized(x.dtype), self.bias)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """Return the weight [N, K] in ``dtype``."""
        scheme = self.scheme
        operand = scheme.operand
        treated = operand.op("dequantize")(*self.parts, *operand.arguments, torch.float32)
        weight: Tensor = scheme.treatment.untreated(at_once, treated, self._columns)
        return weight.to(dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "StoredLinear":
        """Convert the bias; move the tensors of the weight to its device, in their own dtype."""
        kept = {name: self._parameters.pop(name) for name in self._stored}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, tensor in kept.items():
            assert tensor is not None
            moved = fn(tensor.new_empty(0, dtype=torch.float32)).device
            self._parameters[name] = tensor if moved == tensor.device else nn.Parameter(_moved(tensor, moved), requires_grad=False)
        return self

    def extra_repr(self) -> str:
        """Return what it is, for people."""
        scheme = self.scheme
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"{scheme.operand.name}, treatment={scheme.treatment.name}"
        )


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    # to_empty and what else gives memory to meta tensors only says so by what fn returns.
    return torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.detach().to(device)
