"""Packed weights: computed once per parameter, shared by every compiled graph, computed again when a parameter changes."""

import contextlib
import ctypes
import operator
import threading
import weakref
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.errors import WeightFreedError
from lowbit_compiler.runtime.fingerprint import Places, can_read, content, sampled
from lowbit_compiler.runtime.pages import PAGES

FREED = (
    "a float weight was released by free_weights=True and is needed again, by another recipe, a new shape that is not rewritten, or after a "
    "change; load the model anew, or compile without free_weights"
)
TRIM_EVERY = 1 << 24
"""Bytes of weights packed after which freed memory goes back to the system, which takes some milliseconds."""
LOADING = threading.RLock()
"""Held while weights are packed and released: no thread releases what another one reads, and none packs what another one has packed."""
_version = operator.attrgetter("_version")


class Watch:
    """What changes when one of some weights is written to or gets other memory: every call of a compiled model asks.

    That is the version counters, the addresses, and on the CPU a hash of a few lines of each (runtime/fingerprint.py): fused optimizers,
    collectives and whatever goes through ``.data`` or NumPy leave the counters as they are. An address is not taken again
    while the memory lives; ``dead`` is called as soon as some of it is given back. No Python code runs for each weight of a call. Nothing
    refers to the tensors themselves, which torch.utils.swap_tensors would refuse: others may come to have their identities, and be
    parts of memory that lives on.
    """

    def __init__(
        self, tensors: Sequence[Tensor], dead: Callable[[], object], skip: Sequence[bool] | None = None, frozen: bool = False
    ) -> None:
        """Read the weights as they are now; of those to ``skip`` (released or about to be) and ``frozen`` ones it only matters where they are."""
        skip, self._frozen = skip or [False] * len(tensors), frozen
        self._read = [i for i, out in enumerate(skip) if not out]
        self._skipped = [i for i, out in enumerate(skip) if out]
        seen = self._seen = self._now(tensors)
        # As another thread may give the tensors other memory meanwhile. Not tensor.detach(), which released ones refuse.
        held = list(map(Tensor.detach, tensors))
        places = Places([] if frozen else [place for i in self._read if can_read(held[i]) for place in sampled(held[i])])

        def gone(_: object) -> None:
            places.forget()
            seen.clear()  # the identity of what is gone may come again
            dead()

        self._memory = [weakref.ref(tensor.untyped_storage(), gone) for tensor in held]
        self._reads = {id(held[i].untyped_storage()) for i in self._read}
        self._places, self._hash = places, places.hash()
        _WATCHES.add(self)

    def same(self, tensors: Sequence[Tensor]) -> bool:
        """Return whether ``tensors``, the same objects in the same order, hold what they held then."""
        try:
            return self._now(tensors) == self._seen and self._places.hash() == self._hash
        except RuntimeError:  # released meanwhile by another graph, and torch refuses the address
            return False

    def _now(self, tensors: Sequence[Tensor]) -> list[Any]:
        read = [tensors[i] for i in self._read] if self._skipped else tensors
        seen: list[Any] = [list(map(Tensor.data_ptr, read)) if self._frozen else _stamps(read)]
        if not self._skipped:
            return seen
        skipped = [tensors[i] for i in self._skipped]
        # The storage is one object as long as the memory lives, and tells no version or address, which released weights refuse.
        return [*seen, list(map(id, map(Tensor.untyped_storage, skipped))), list(map(Tensor.storage_offset, skipped))]

    def forget(self, storage: torch.UntypedStorage) -> None:
        """Never read ``storage`` again: it is about to be released."""
        if id(storage) in self._reads:
            self._places.forget()


_WATCHES: weakref.WeakSet[Watch] = weakref.WeakSet()
"""All there are. They are made, and memory is released, under LOADING."""


def _stamps(tensors: Sequence[Tensor]) -> tuple[list[int], list[int]]:
    """Return the version counters and the addresses of ``tensors``."""
    try:
        versions = list(map(_version, tensors))
    except RuntimeError:  # a tensor made under inference_mode has no counter
        versions = [-1 if tensor.is_inference() else tensor._version for tensor in tensors]
    return versions, list(map(Tensor.data_ptr, tensors))


def where(tensor: Tensor) -> tuple[Any, ...]:
    """Return which part of its memory ``tensor`` is, and how it is read."""
    storage = id(tensor.untyped_storage())  # one object as long as the memory lives
    return storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device


@dataclass(frozen=True)
class Made:
    """Values in a store: the text of what computed them, where its sources are (:func:`where`), and the values themselves."""

    computation: str
    sources: tuple[Any, ...]
    values: tuple[Tensor, ...]


@dataclass
class _Entry:
    memory: tuple[weakref.ref[torch.UntypedStorage], ...]
    contents: tuple[Any, ...]
    values: tuple[Tensor, ...]
    number: int | None = None
    """Of values that several processes computed together, which are of no use without each other."""

    def is_of(self, sources: Sequence[Tensor]) -> bool:
        """Return whether the values come from this memory, unchanged since (what was freed cannot change)."""
        same = all(ref() is source.untyped_storage() for ref, source in zip(self.memory, sources, strict=True))
        return same and all(is_freed(source) or _content(source) == seen for source, seen in zip(sources, self.contents, strict=True))


def _content(tensor: Tensor) -> Any:
    """Return what is equal where all elements of ``tensor`` are; of memory that is not read, its version counter and address."""
    return content(tensor) if can_read(tensor) else _stamps([tensor])


class WeightStore:
    """Values computed from parameters, found again by what computes them and which memory they come from."""

    def __init__(self) -> None:
        self._entries: dict[tuple[Any, ...], _Entry] = {}

    def number(self, computation: str, sources: Sequence[Tensor]) -> int:
        """Return the number of an up-to-date result that :meth:`get` computed; -1 where there is none."""
        entry = self._entries.get((computation, *map(where, sources)))
        return -1 if entry is None or entry.number is None or not entry.is_of(sources) else entry.number

    def get(
        self, computation: str, compute: Callable[..., tuple[Tensor, ...]], sources: Sequence[Tensor], anew: int | None = None
    ) -> tuple[Tensor, ...]:
        """Return ``compute(*sources)``, computed anew only where no up-to-date result of a ``computation`` of the same text is kept.

        Contents are compared in full: that takes some hundredth of the time that packing takes, and happens only where weights are loaded.
        With a number ``anew`` it is computed all the same, and kept under that number.
        """
        key = (computation, *map(where, sources))
        entry = self._entries.get(key)
        if anew is None and entry is not None and entry.is_of(sources):
            return entry.values
        del entry  # with the values in it, if no one else has them
        self._entries.pop(key, None)
        if any(map(is_freed, sources)):
            raise WeightFreedError(FREED)
        before = tuple(map(_content, sources))  # a write while they are computed makes the values old
        with torch.no_grad():
            values = tuple(PAGES.lay(value) for value in compute(*(source.detach() for source in sources)))
        drop = lambda _, key=key: self._entries.pop(key, None)
        self._entries[key] = _Entry(tuple(weakref.ref(source.untyped_storage(), drop) for source in sources), before, values, anew)
        _count_for_trim(sum(source.nbytes for source in sources))
        return values

    def made_of(self, places: Container[Any]) -> list[Made]:
        """Return all values whose every source is at one of ``places``."""
        found = [Made(key[0], key[1:], entry.values) for key, entry in list(self._entries.items())]
        return [made for made in found if all(source in places for source in made.sources)]

    def nbytes(self) -> int:
        """Return the bytes of all values kept."""
        return sum(value.nbytes for entry in list(self._entries.values()) for value in entry.values)


def is_freed(tensor: Tensor) -> bool:
    """Return whether the storage of ``tensor`` was released."""
    return tensor.numel() > 0 and tensor.untyped_storage().nbytes() == 0


def any_freed(values: Iterable[object]) -> bool:
    """Return whether the storage of some tensor among ``values`` was released."""
    return any(isinstance(x, Tensor) and x.layout is torch.strided and is_freed(x) for x in values)


def free(tensor: Tensor) -> int:
    """Release the storage of ``tensor``, which keeps its shape; returns the bytes.

    Memory that torch does not own (a NumPy array, a mapped file) stays, and counts 0.
    """
    storage = tensor.untyped_storage()
    if not storage.resizable():
        return 0
    size = storage.nbytes()
    for watch in list(_WATCHES):  # of other graphs, which another thread may be asking
        watch.forget(storage)
    storage.resize_(0)
    return size


_packed_since_trim = 0


def _count_for_trim(nbytes: int) -> None:
    global _packed_since_trim
    _packed_since_trim += nbytes
    if _packed_since_trim > TRIM_EVERY:
        trim()


def trim() -> None:
    """Give memory that was freed back to the system; glibc keeps what lies below the end of its heap, most of a model's weights.

    And it finds no place there for new weights where packed ones lie between: a server whose weights are exchanged would grow.
    """
    global _packed_since_trim
    _packed_since_trim = 0
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


STORE = WeightStore()
