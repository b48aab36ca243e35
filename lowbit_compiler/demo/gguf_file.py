"""Reads a GGUF file: metadata, and tensors unpacked to float32.

The gguf package needs 8 seconds for one reading of this file and transformers reads it four times; this needs half a second.
Only what the demo's file holds is known by itself: format version 3; tensors in F32, Q4_1 and Q8_0.
"""

import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Kind = tuple[int, int, Callable[[npt.NDArray[np.uint8]], Array]]
"""Values and bytes of a block, and what unpacks blocks [n, bytes] to [n, values]."""

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class TensorEntry:
    shape: tuple[int, ...]
    kind: int
    start: int


class GGUFFile:
    def __init__(self, path: Path, more: Mapping[int, Kind] | None = None) -> None:
        """``more``: tensor types beside those that are known."""
        self._kinds = {**_KINDS, **(more or {})}
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = 0
        if self._data[:4] != b"GGUF" or self._struct("<4xI") != 3:
            raise ValueError(f"{path.name} is not a GGUF file of version 3")
        tensors, fields = self._struct("<Q"), self._struct("<Q")
        self.fields: dict[str, Any] = {self._string(): self._value(self._struct("<I")) for _ in range(fields)}
        entries = [self._entry() for _ in range(tensors)]
        align = int(self.fields.get("general.alignment", 32))
        base = -(-self._at // align) * align
        self.tensors = {name: TensorEntry(shape, kind, base + offset) for name, shape, kind, offset in entries}

    def read(self, name: str) -> Array:
        """The tensor as float32, in PyTorch's order of dimensions."""
        entry = self.tensors[name]
        if entry.kind not in self._kinds:
            raise ValueError(f"{name}: tensor type {entry.kind} is not one of {sorted(self._kinds)}")
        block, size, unpack = self._kinds[entry.kind]
        blocks = int(np.prod(entry.shape)) // block
        raw = np.frombuffer(self._data, np.uint8, blocks * size, entry.start).reshape(blocks, size)
        return unpack(raw).reshape(entry.shape)

    def _struct(self, layout: str) -> Any:
        (value,) = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return value

    def _string(self) -> str:
        length = self._struct("<Q")
        self._at += length
        return self._data[self._at - length : self._at].decode()

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            item, length = self._struct("<I"), self._struct("<Q")
            return [self._value(item) for _ in range(length)]
        return self._struct(_SCALARS[kind])

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        sizes = [self._struct("<Q") for _ in range(self._struct("<I"))]
        return name, tuple(reversed(sizes)), self._struct("<I"), self._struct("<Q")


def _halves(raw: npt.NDArray[np.uint8]) -> Array:
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def _unpack_f32(raw: npt.NDArray[np.uint8]) -> Array:
    return raw.view(np.float32).copy()


def _unpack_q4_1(raw: npt.NDArray[np.uint8]) -> Array:
    """32 values: scale, minimum, then 16 bytes whose low halves are the first 16 values and whose high halves the last."""
    nibbles = np.concatenate([raw[:, 4:] & 15, raw[:, 4:] >> 4], axis=1).astype(np.float32)
    return nibbles * _halves(raw[:, 0:2]) + _halves(raw[:, 2:4])


def _unpack_q8_0(raw: npt.NDArray[np.uint8]) -> Array:
    """32 values: scale, then 32 signed bytes."""
    return raw[:, 2:].view(np.int8).astype(np.float32) * _halves(raw[:, 0:2])


_KINDS: dict[int, Kind] = {
    0: (1, 4, _unpack_f32),
    3: (32, 20, _unpack_q4_1),
    8: (32, 34, _unpack_q8_0),
}
