"""Rows of a weight, which one process of FSDP2 has in float and sends to the others in low bits."""

import logging
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from lowbit_compiler.errors import WeightFreedError
from lowbit_compiler.runtime.forms import Form
from lowbit_compiler.runtime.gathered import GatheredWeight
from lowbit_compiler.runtime.weights import FREED, LOADING, STORE, Watch, free, is_freed
from lowbit_compiler.torch_internals import subclasses
from lowbit_compiler.torch_internals.trees import tree_leaves, tree_map_only

log = logging.getLogger("lowbit_compiler")
aten = torch.ops.aten
KEEP = (
    aten._pin_memory.default, aten._to_copy.default, aten.clone.default, aten.empty_like.default, aten.new_empty.default, aten.new_zeros.default,
)  # fmt: skip
"""What FSDP2 makes shards by, and what models are moved and copied by: of one of ours these make one of ours, as views do, and others none."""


class Writes:
    """How often memory was written to by torch; below autograd, where a DTensor's ops arrive, torch does not count."""

    def __init__(self) -> None:
        self.count = 0


class ShardedWeight(Tensor):
    """A float tensor, ``plain``, whose rows FSDP2 gathers in a ``form``: they are quantized when they are first sent, and again after a change.

    With ``release`` the float memory goes once that is done, and whoever reads it then gets WeightFreedError.
    """

    plain: Tensor
    form: Form
    release: bool
    _writes: Writes
    _counted: int
    """Of the writes, when the rows were quantized."""
    _watch: Watch | None
    _made: tuple[Tensor, ...] | None
    _said: bool
    __torch_function__ = subclasses.PLAIN  # type: ignore[assignment]

    def __new__(cls, plain: Tensor, form: Form, release: bool, writes: Writes | None = None) -> Self:
        """Make one of ``plain``; ``writes`` are those to its memory."""
        made = subclasses.outside(cls, plain, plain.shape, plain.dtype, requires_grad=False)
        made.plain, made.form, made.release = plain, form, release
        made._writes = writes or Writes()
        made._counted, made._watch, made._made, made._said = 0, None, None, False
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"ShardedWeight({self.form}, {self.plain})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.plain.__reduce_ex__(protocol)  # files have what other programs can read

    def __tensor_flatten__(self) -> tuple[list[str], tuple[Any, ...]]:
        return ["plain"], (self.form, self.release)

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], about: tuple[Any, ...], shape: Any, stride: Any) -> "ShardedWeight":
        return ShardedWeight(inner["plain"], *about)

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = kwargs or {}
        ours = [x for x in tree_leaves((args, kwargs)) if isinstance(x, ShardedWeight)]
        if not op.is_view and any(is_freed(x.plain) for x in ours):
            raise WeightFreedError(FREED)
        inner_args, inner_kwargs = tree_map_only(ShardedWeight, lambda x: x.plain, (args, kwargs))
        result = op(*inner_args, **inner_kwargs)
        if op._schema.is_mutable:
            for x in ours:
                x._writes.count += 1
        elif op.is_view or op in KEEP:
            first = ours[0]
            writes = first._writes if op.is_view else None
            result = tree_map_only(Tensor, lambda x: ShardedWeight(x, first.form, first.release, writes), result)
        else:
            return result
        return subclasses.return_and_correct_aliasing(op, args, kwargs, result)

    def fsdp_pre_all_gather(
        self, mesh: Any, outer_size: torch.Size, outer_stride: Any, module: Any, mp_policy: Any
    ) -> tuple[tuple[Tensor, ...], Any]:
        """Return what is sent to the other processes, and what :meth:`fsdp_post_all_gather` needs to know of it."""
        n, processes = outer_size[0], mesh.size()
        dtype = mp_policy.param_dtype or self.dtype
        if self.shape[1:] != outer_size[1:]:
            return self._float(f"cut in another dimension than rows: {tuple(self.shape)} of {tuple(outer_size)}", self.plain, dtype)
        if n % processes:  # FSDP2 wants matrices of one size of all, as long as that of the longest
            padded = self.plain.as_strided((-(-n // processes), *self.shape[1:]), self.plain.stride(), self.plain.storage_offset())
            return self._float(f"{n} rows cannot be cut into {processes} equal parts", padded, dtype)
        return self._sent(dtype), (dtype, (outer_size, n // processes))

    def fsdp_post_all_gather(
        self, outputs: Sequence[Tensor], about: Any, dtype: torch.dtype, *, out: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        """Return what the module has while it runs, of what came of all processes; ``out`` is of the call before, on the same memory.

        Raises RuntimeError where the model was converted since: FSDP2 has buffers of the first call's dtype, and copies bytes into them.
        """
        sent, whole = about
        if sent != dtype:
            raise RuntimeError(
                f"gather_packed: the model's weights are {sent}, and FSDP2 gathers {dtype} since the first call; convert the model before that"
            )
        if out is not None:
            return None
        if whole is None:
            return outputs[0], ()
        shape, rows = whole
        return GatheredWeight(self.form, outputs, shape, rows, dtype), ()

    def _float(self, why: str, plain: Tensor, dtype: torch.dtype) -> tuple[tuple[Tensor, ...], Any]:
        if not self._said:
            log.warning("a weight is gathered in float: %s", why)
            self._said = True
        return (plain.to(dtype),), (dtype, None)

    def _sent(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Return the rows in their form, quantized anew only where they are not what they were."""
        plain, writes = self.plain, self._writes.count
        with LOADING:
            if self._made is not None and self._watch is not None and writes == self._counted and self._watch.same([plain]):
                return self._made
            self._made = None  # before the new ones come
            if writes != self._counted and not plain.is_inference():
                increment_version(plain)
            self._counted = writes
            # Before they are made: a write meanwhile is a difference at the next call.
            self._watch = Watch([plain], _nothing, [self.release or is_freed(plain)])
            self._made = STORE.get(f"{self.form} {dtype}", lambda rows: self.form.made(rows.to(dtype)), [plain])
            if self.release and not is_freed(plain):
                free(plain)
        return self._made


def _nothing() -> None:
    pass
