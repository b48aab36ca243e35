"""Packed weights: computed once per parameter, shared by every compiled graph, computed again when a parameter changes."""

import contextlib
import ctypes
import operator
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit_compiler.errors import WeightFreedError

Stamps = tuple[list[int], list[int]]
_version = operator.attrgetter("_version")


def stamps(tensors: Sequence[Tensor]) -> Stamps:
    """Return what changes when one of ``tensors`` is written to: their version counters and their addresses.

    Every call of a compiled model asks this of all its weights, hence no Python code for each of them.
    """
    try:
        versions = list(map(_version, tensors))
    except RuntimeError:  # a tensor made under inference_mode has no counter
        versions = [-1 if tensor.is_inference() else tensor._version for tensor in tensors]
    return versions, list(map(Tensor.data_ptr, tensors))


@dataclass
class _Entry:
    sources: tuple[weakref.ref[Tensor], ...]
    stamps: tuple[Stamps, ...]
    values: tuple[Tensor, ...]

    def is_of(self, sources: Sequence[Tensor]) -> bool:
        """Return whether the values come from these very tensors, unchanged since (a freed one cannot change)."""
        same = all(ref() is source for ref, source in zip(self.sources, sources, strict=True))
        return same and all(is_freed(source) or stamps([source]) == seen for source, seen in zip(sources, self.stamps, strict=True))


class WeightStore:
    """Values computed from parameters, found again by what computes them and which parameters they come from."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, tuple[int, ...]], _Entry] = {}

    def get(self, recipe: str, compute: Callable[..., tuple[Tensor, ...]], sources: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return ``compute(*sources)``, computed anew only where no up-to-date result of the same ``recipe`` text is kept."""
        key = (recipe, tuple(id(source) for source in sources))
        entry = self._entries.get(key)
        if entry is not None and entry.is_of(sources):
            return entry.values
        for source in sources:
            if is_freed(source):
                raise WeightFreedError(
                    "a float weight was released by free_weights=True and is needed again, by another recipe, a new shape that is "
                    "not rewritten, or after a change; load the model anew, or compile without free_weights"
                )
        before = tuple(stamps([source]) for source in sources)  # a write while they are computed makes the values old
        with torch.no_grad():
            values = compute(*(source.detach() for source in sources))
        drop = lambda _, key=key: self._entries.pop(key, None)
        refs = tuple(weakref.ref(source, drop) for source in sources)
        self._entries[key] = _Entry(refs, before, values)
        return values

    def nbytes(self) -> int:
        """Return the bytes of all values kept."""
        return sum(value.nbytes for entry in self._entries.values() for value in entry.values)


def is_freed(tensor: Tensor) -> bool:
    """Return whether the storage of ``tensor`` was released."""
    return tensor.numel() > 0 and tensor.untyped_storage().nbytes() == 0


def any_freed(values: Iterable[object]) -> bool:
    """Return whether the storage of some tensor among ``values`` was released."""
    return any(isinstance(x, Tensor) and x.layout is torch.strided and is_freed(x) for x in values)


def free(tensor: Tensor) -> int:
    """Release the storage of ``tensor``, which keeps its shape; returns the bytes. Reading it afterwards raises in torch.

    Memory that torch does not own (a NumPy array, a mapped file) stays, and counts 0.
    """
    storage = tensor.untyped_storage()
    if not storage.resizable():
        return 0
    size = storage.nbytes()
    storage.resize_(0)
    return size


def trim() -> None:
    """Give memory that was freed back to the system; glibc keeps what lies below the end of its heap, most of a model's weights."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


STORE = WeightStore()
