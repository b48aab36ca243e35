"""What a call makes of fake values, worked out once: the layers of a model are alike, and torch takes half a millisecond for each call."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.torch_internals.dispatch import OpOverload
from lowbit_compiler.torch_internals.fakes import FakeTensor

MOST = 4096
"""Calls that are kept; more are another model's by now."""
_known: dict[Any, Any] = {}
"""What is made of a call: of each tensor its shape, strides, dtype and device."""


def fake_result(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return ``target(*args, **kwargs)`` of fake values, in the fake mode that is on.

    Tensors that an op makes in memory of their own are made by their description where the same call has been made before: same sizes,
    strides, dtypes, devices and numbers, and the same default dtype. With symbolic sizes, gradients, views and all that is no op of torch's registry it is called each time.
    """
    key = _key((target, torch.get_default_dtype(), args, kwargs)) if _makes_memory(target) else None
    if key is None:
        return target(*args, **kwargs)
    if (known := _known.get(key)) is not None:
        return _made(known)
    result = target(*args, **kwargs)
    if (described := _described(result, args)) is not None:
        if len(_known) >= MOST:
            _known.clear()
        _known[key] = described
    return result


@functools.cache
def _makes_memory(target: Any) -> bool:
    """Return whether ``target`` is an op whose results share memory with no operand."""
    if not isinstance(target, OpOverload):
        return False
    schema = target._schema
    return not schema.is_mutable and all(each.alias_info is None for each in (*schema.arguments, *schema.returns))


def _key(value: Any) -> Any:
    """Return what is equal for calls that make the same; None where that cannot be told."""
    if isinstance(value, tuple | list):
        parts = tuple(map(_key, value))
        return None if None in parts else (type(value), parts)
    if isinstance(value, dict):
        return _key([*value, *value.values()])
    if isinstance(value, Tensor):
        plain = _is_plain(value) and not value.requires_grad and value.constant is None  # type: ignore[attr-defined]
        return (value.shape, value.stride(), value.storage_offset(), value.dtype, value.device) if plain else None
    if value is None or type(value) in (int, float, bool, str, torch.dtype, torch.memory_format, OpOverload):
        return type(value), value
    return None


def _is_plain(value: Tensor) -> bool:
    if not isinstance(value, FakeTensor) or value.layout is not torch.strided:
        return False
    places = (*value.shape, *value.stride(), value.storage_offset())  # a slice of symbolic length may have sizes that are numbers
    return all(type(number) is int for number in places) and not value.is_conj() and not value.is_neg()


def _described(result: Any, args: tuple[Any, ...]) -> Any:
    """Return a description of ``result`` for :func:`_made`; None where its memory is not as it would make it, or that of an operand."""
    if isinstance(result, tuple | list):
        parts = [_described(each, args) for each in result]
        return None if None in parts else type(result)(parts)
    if not isinstance(result, Tensor) or not _is_plain(result) or result.requires_grad or any(result is each for each in args):
        return None  # a dropout that drops nothing returns its operand, which no schema tells
    extent = 1 + sum((size - 1) * stride for size, stride in zip(result.shape, result.stride(), strict=True)) if result.numel() else 0
    whole = result.storage_offset() == 0 and result.untyped_storage().nbytes() == extent * result.element_size()
    return {"size": tuple(result.shape), "stride": result.stride(), "dtype": result.dtype, "device": result.device} if whole else None


def _made(described: Any) -> Any:
    return torch.empty_strided(**described) if isinstance(described, dict) else type(described)(map(_made, described))
