"""Fingerprints of weights: a 64-bit hash of their bytes, of all or of a few lines of each, to notice a write however it was made.

A line is 64 bytes, filled up with zeros where a place ends. Of all lines of all places, the i-th (from 1), of words w_0 .. w_7, adds
``fold(sum_j(fold(w_j) * FACTORS[j]) + i * STEP) * MIX`` to the hash, modulo 2^64, where ``fold(x) = x ^ (x >> 29)``.
"""

import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowbit_compiler.runtime import library

LINE = 64
FACTORS = np.array(
    [
        0x2545F4914F6CDD1D, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xA24BAED4963EE407,
        0xA0761D6478BD642F, 0xE7037ED1A0B428DB, 0x8EBC6AF09C88C6E3, 0x589965CC75374CC3,
    ],
    dtype=np.uint64,
)  # fmt: skip
STEP, MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
BYTES_A_SAMPLE = 1 << 19
"""One line is sampled in so many bytes: a step at one token reads every weight, so the cost stays the same part of it."""
SAMPLES = (2, 16)
"""Lines sampled of one weight, at least and at most."""
CHUNK = 1 << 20

Place = tuple[int, int]
"""Address and bytes."""


def runs(tensor: Tensor) -> tuple[int, list[tuple[int, int]]]:
    """Return the elements that lie side by side in ``tensor``, and size and stride (in elements) of how often they come, widest first."""
    dims = sorted(((step, size) for size, step in zip(tensor.shape, tensor.stride(), strict=True) if size > 1 and step > 0), reverse=True)
    outer: list[tuple[int, int]] = []
    for step, size in dims:
        if outer and outer[-1][1] == step * size:
            outer[-1] = (outer[-1][0] * size, step)
        else:
            outer.append((size, step))
    side_by_side = outer.pop()[0] if outer and outer[-1][1] == 1 else 1
    return side_by_side, outer


def sampled(tensor: Tensor) -> list[Place]:
    """Return a few lines of ``tensor`` (on the CPU, strided), spread over its rows and columns alike; always the same ones."""
    if not tensor.numel():
        return []
    side_by_side, outer = runs(tensor)
    length = side_by_side * tensor.itemsize
    lines = -(-length // LINE)
    total = lines * int(np.prod([size for size, _ in outer], dtype=np.int64))
    count = min(max(tensor.nbytes // BYTES_A_SAMPLE, SAMPLES[0]), SAMPLES[1], total)
    places = []
    for i in range(count):
        first, end = total * i // count, total * (i + 1) // count
        # At multiples of the golden ratio: evenly spaced lines of a matrix would all be of the same columns.
        run, line = divmod(first + ((i + 1) * int(STEP) % 2**64 * (end - first) >> 64), lines)
        start = line * LINE
        for size, step in reversed(outer):
            run, index = divmod(run, size)
            start += index * step * tensor.itemsize
        places.append((tensor.data_ptr() + start, min(LINE, length - line * LINE)))
    return places


def content(tensor: Tensor) -> int:
    """Return the hash of all of ``tensor`` (on the CPU, strided)."""
    if not tensor.numel():
        return 0
    whole = tensor.detach()  # keeps the memory: another thread may give the tensor other meanwhile
    side_by_side, outer = runs(whole)
    if outer:
        whole = whole.contiguous()
    return Places([(whole.data_ptr(), whole.nbytes if outer else side_by_side * whole.itemsize)]).hash()


def can_read(tensor: Tensor) -> bool:
    """Return whether fingerprints of ``tensor`` are taken: reading the memory of another device would wait for all that runs there."""
    return tensor.layout is torch.strided and tensor.device.type == "cpu"


class Places:
    """Memory whose hash is asked for again and again."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = np.array(places, dtype=np.int64).reshape(-1, 2)
        self._function = _native() or _reference
        self._arguments = self._places.ctypes.data, len(self._places)

    def hash(self) -> int:
        """Return the hash of what is there now."""
        # Nothing runs between reading the attribute and the call, nor during the call: see forget.
        return self._function(*self._arguments)

    def forget(self) -> None:
        """Never read that memory again: it is about to be released, by whatever thread holds the interpreter's lock now."""
        self._arguments = 0, 0


@functools.cache
def _native() -> Callable[[int, int], int] | None:
    path = library.status().path
    if path is None:
        return None
    function = ctypes.PyDLL(str(path)).lowbit_fingerprint  # keeps the interpreter's lock: no other thread releases the memory meanwhile
    function.restype = ctypes.c_uint64
    function.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    return function


def _reference(places: int, count: int) -> int:
    if not count:
        return 0
    table = np.ctypeslib.as_array(ctypes.cast(places, ctypes.POINTER(ctypes.c_int64)), (count, 2))
    total = lines = 0
    for chunk in _chunks([(int(address), int(length)) for address, length in table]):
        words = np.frombuffer(chunk, np.uint64).reshape(-1, LINE // 8)
        steps = np.arange(lines + 1, lines + 1 + len(words), dtype=np.uint64) * STEP
        total += int((_fold((_fold(words) * FACTORS).sum(1, dtype=np.uint64) + steps) * MIX).sum(dtype=np.uint64))
        lines += len(words)
    return total % 2**64


def _fold(words: Any) -> Any:
    return words ^ (words >> np.uint64(29))


def _chunks(places: Sequence[Place]) -> Iterator[bytes]:
    """Yield the bytes of ``places``, filled up to whole lines, some at a time."""
    parts: list[bytes] = []
    size = 0
    for address, length in places:
        for start in range(0, length, CHUNK):
            part = ctypes.string_at(address + start, min(CHUNK, length - start))
            parts.append(part.ljust(-(-len(part) // LINE) * LINE, b"\0"))
            size += len(part)
            if size >= CHUNK:
                yield b"".join(parts)
                parts, size = [], 0
    if parts:
        yield b"".join(parts)
