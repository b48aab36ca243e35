"""Large pages for packed weights, which are read from end to end at every call.

With pages of 4 kB a core looks up an address for each of them, and its prefetchers stop at their ends: one token then gets about half the
memory bandwidth that there is (docs/speed.md). Weights smaller than a large page share one, so they are laid side by side.
"""

import ctypes
import sys
import weakref

import torch
from torch import Tensor

LARGE = 2 << 20
"""Bytes of a large page of x86-64, and of AArch64 with pages of 4 kB."""
CHUNK = 8 << 20
"""Bytes that small tensors share: what one of them holds on to when the others have gone. What nothing is laid on takes no memory."""
LINE = 64
_MADV_HUGEPAGE, _MADV_NOHUGEPAGE = 14, 15


class Pages:
    """Lays tensors on large pages: large ones on their own, small ones side by side on chunks that live as long as one of their tensors."""

    def __init__(self) -> None:
        self._storage: weakref.ref[torch.UntypedStorage] | None = None
        self._used = self._end = 0

    def lay(self, tensor: Tensor) -> Tensor:
        """Return a copy of ``tensor`` on large pages; ``tensor`` itself where it is not dense on the CPU, or the system is not Linux."""
        if tensor.device.type != "cpu" or sys.platform != "linux" or not tensor.numel() or not tensor.is_contiguous():
            return tensor
        place = self._place(-(-tensor.nbytes // LINE) * LINE)
        copy: Tensor = place[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        copy.copy_(tensor)
        return copy

    def _place(self, size: int) -> Tensor:
        if size >= LARGE:
            return _chunk(size)[:size]
        storage = None if self._storage is None else self._storage()
        if storage is None or self._used + size > self._end:
            chunk = _chunk(CHUNK)
            storage = chunk.untyped_storage()
            self._storage, self._used = weakref.ref(storage), int(chunk.storage_offset())
            self._end = self._used + CHUNK
        place: Tensor = torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage, self._used, (size,))  # type: ignore[call-overload]
        self._used += size
        return place


def _chunk(size: int) -> Tensor:
    """Return at least ``size`` bytes from the start of a large page on: uint8.

    The last page is a large one where half of it is used: of a large page all is resident as soon as some is.
    """
    memory = torch.empty(-(-size // LARGE) * LARGE + LARGE, dtype=torch.uint8, device="cpu")
    start = -memory.data_ptr() % LARGE
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is not None:  # whatever it answers: pages of another size are right too
        large = (size + LARGE // 2) // LARGE * LARGE
        for offset, length, advice in ((0, large, _MADV_HUGEPAGE), (large, size - large, _MADV_NOHUGEPAGE)):
            if length > 0:
                madvise(ctypes.c_void_p(memory.data_ptr() + start + offset), ctypes.c_size_t(length), advice)
    return memory[start : start + size]


PAGES = Pages()
"""Where packed weights lie; used under LOADING."""
