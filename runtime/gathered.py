"""A weight that processes have put together in low bits: what a module has in the place of its parameter while FSDP2 lets it run."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from lowbit_compiler.runtime import ops
from lowbit_compiler.runtime.forms import Form
from lowbit_compiler.runtime.training import linear
from lowbit_compiler.runtime.treatments.treatment import Call, at_once
from lowbit_compiler.torch_internals import subclasses
from lowbit_compiler.torch_internals.trees import tree_leaves, tree_map_only

aten = torch.ops.aten

assert ops.LIBRARY
IN_STEPS = {getattr(torch.ops.lowbit, name).default: getattr(linear, name) for name in linear.SCHEMAS}
"""Ops that see a weight as it is, and call others on it."""


class GatheredWeight(Tensor):
    """The weight [N, K] that the ``parts`` of a ``form`` stand for, of processes that have ``rows`` of it each.

    Compiled with backend "lowbit", the parts are taken as they are (capture/opened.py); whoever else reads it has it dequantized.
    """

    form: Form
    parts: tuple[Tensor, ...]
    rows: int
    __torch_function__ = subclasses.PLAIN  # type: ignore[assignment]

    def __new__(
        cls, form: Form, parts: Sequence[Tensor], shape: Sequence[int], rows: int, dtype: torch.dtype, requires_grad: bool = False
    ) -> Self:
        """Make one of ``shape`` and ``dtype``, on the device of its parts."""
        made = subclasses.outside(cls, parts[0], torch.Size(shape), dtype, requires_grad)
        made.form, made.parts, made.rows = form, tuple(parts), rows
        for index, part in enumerate(parts):
            setattr(made, f"part{index}", part)  # where those who take it apart and put it together look
        return made

    def dequantized(self, call: Call = at_once, parts: tuple[Any, ...] | None = None) -> Any:
        """Return it in its own dtype, as ``call`` computes, of ``parts`` that stand for its own."""
        n, k = self.shape
        return self.form.weight(call, self.parts if parts is None else parts, (n, k), self.rows, self.dtype)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"GatheredWeight({self.form}, {tuple(self.shape)}, {self.dtype})"

    def __tensor_flatten__(self) -> tuple[list[str], tuple[Any, ...]]:
        return [f"part{index}" for index in range(len(self.parts))], (self.form, self.rows, self.dtype, self.requires_grad)

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], about: tuple[Any, ...], shape: Sequence[int], stride: Any) -> "GatheredWeight":
        form, rows, dtype, requires_grad = about
        return GatheredWeight(form, [inner[name] for name in sorted(inner)], shape, rows, dtype, requires_grad)

    def _stable_hash_for_caching(self) -> str:
        """Return what compilers know their code by: what does not change from one process to another."""
        return repr((self.form, self.rows, self.dtype, tuple(self.shape), str(self.device), self.requires_grad))

    def _again(self) -> "GatheredWeight":
        return GatheredWeight(self.form, self.parts, self.shape, self.rows, self.dtype)

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = kwargs or {}
        if op in (aten.detach.default, aten.alias.default) or (op is aten.as_strided.default and _is_whole(*args)):
            return subclasses.return_and_correct_aliasing(op, args, kwargs, args[0]._again())
        if _is_written(op, args, kwargs):
            raise RuntimeError(f"{op} writes to a weight that processes have gathered; write to the model's parameters between its calls")
        if isinstance(args[0], GatheredWeight) and (known := args[0].form.known(op, args, args[0].parts)) is not None:
            return known
        if op in IN_STEPS:
            return IN_STEPS[op](*args, **kwargs)
        args, kwargs = tree_map_only(GatheredWeight, GatheredWeight.dequantized, (args, kwargs))
        return op(*args, **kwargs)


def _is_whole(weight: Tensor, shape: Sequence[int], stride: Sequence[int], offset: int | None = None) -> bool:
    """Return whether a view is of all that there is."""
    return (tuple(shape), tuple(stride), offset or 0) == (tuple(weight.shape), weight.stride(), 0)


def _is_written(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether ``op`` writes to one of ours."""
    if not op._schema.is_mutable:
        return False
    given = dict(zip((argument.name for argument in op._schema.arguments), args, strict=False)) | kwargs
    written = [given.get(each.name) for each in op._schema.arguments if each.alias_info is not None and each.alias_info.is_write]
    return any(isinstance(leaf, GatheredWeight) for leaf in tree_leaves(written))
