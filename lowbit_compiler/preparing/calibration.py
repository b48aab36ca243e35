"""The calls of the model that calibration makes: the data as users give it."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from lowbit_compiler.errors import OptionError
from lowbit_compiler.preparing.block import Call
from lowbit_compiler.preparing.own_text import SELF, own_text
from lowbit_compiler.torch_internals.trees import tree_map_only

ACCEPTED = "data takes an iterable of inputs, each a tensor, a tuple of arguments or a dict of keyword arguments; or 'self'; or None"


def calls_of(model: nn.Module, data: Any) -> list[Call]:
    """Return arguments and keyword arguments of each call, without gradients; raises OptionError."""
    if isinstance(data, str) and data == SELF:
        return [((ids,), {}) for ids in own_text(model)]
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes, Tensor, Mapping)):
        raise OptionError(f"{ACCEPTED}; got {data if isinstance(data, str) else type(data).__name__!r}")
    calls = [_call(each) for each in data]
    if not calls:
        raise OptionError(f"{ACCEPTED}; got no inputs")
    detached: list[Call] = tree_map_only(Tensor, Tensor.detach, calls)
    return detached


def _call(sample: Any) -> Call:
    if isinstance(sample, Tensor):
        return (sample,), {}
    if isinstance(sample, Mapping):
        return (), dict(sample)
    if isinstance(sample, tuple):
        return sample, {}
    raise OptionError(f"{ACCEPTED}; got one that is a {type(sample).__name__}")
