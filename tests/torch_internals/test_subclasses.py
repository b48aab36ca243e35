"""Canary: a tensor that is made of others still goes through torch's ops, views and compilers."""

from types import ModuleType
from typing import Any

import torch


def test_a_tensor_made_of_others(surface: ModuleType) -> None:
    class Doubled(torch.Tensor):
        half: torch.Tensor
        __torch_function__ = surface.PLAIN

        def __new__(cls, half: torch.Tensor) -> Any:
            made = surface.outside(cls, half, half.shape, torch.float64, requires_grad=False)
            made.half = half
            return made

        def __tensor_flatten__(self) -> Any:
            return ["half"], None

        @staticmethod
        def __tensor_unflatten__(inner: Any, about: Any, shape: Any, stride: Any) -> Any:
            return Doubled(inner["half"])

        @classmethod
        def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if op is torch.ops.aten.detach.default:
                return surface.return_and_correct_aliasing(op, args, kwargs or {}, Doubled(args[0].half))
            return op(*(2 * x.half.double() if isinstance(x, Doubled) else x for x in args), **(kwargs or {}))

    outer = torch.ones(2)
    with torch.inference_mode():
        assert [Doubled(each).is_inference() for each in (outer, outer.clone())] == [False, True]
    parameter = torch.nn.Parameter(Doubled(torch.ones(2)), requires_grad=False)
    assert type(parameter) is Doubled
    assert isinstance(parameter, torch.nn.Parameter)
    assert parameter.dtype is torch.float64
    seen: list[Any] = []

    def backend(gm: Any, examples: list[Any]) -> Any:
        seen.extend(type(example) for example in examples)
        return gm.forward

    assert torch.equal(torch.compile(lambda x: x + 1, backend=backend)(parameter), torch.full((2,), 3.0, dtype=torch.float64))
    assert seen == [Doubled]
