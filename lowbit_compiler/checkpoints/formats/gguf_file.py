"""GGUF files: the header, checked against the file before anything of it is believed, and tensors read by ``pread``.

The package gguf takes 8 seconds for the fields and tensors of a file of 98 MB, this half of one.
"""

import math
import mmap
import os
import struct
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.checkpoints import json_file
from lowbit_compiler.checkpoints.formats.gguf_blocks import FLOATS, KINDS
from lowbit_compiler.checkpoints.tensor_files import Entry, fill
from lowbit_compiler.errors import CheckpointError

MAGIC, VERSIONS = b"GGUF", (2, 3)
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
MOST_DIMS = 4
ALIGNMENT = 32


@dataclass(frozen=True)
class Blocks:
    """Where a tensor is, of which shape, and in which of ggml's types."""

    shape: tuple[int, ...]
    kind: int
    start: int
    nbytes: int


class GGUFFile:
    """The fields and tensors of one file; raises CheckpointError for what is not as it should be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = json_file.open_regular(path)
        self.close = weakref.finalize(self, os.close, self._descriptor)
        self._size = os.fstat(self._descriptor).st_size
        if self._size < 24:
            raise CheckpointError(f"{path.name} has {self._size} bytes: no GGUF file")
        with mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ) as data:
            header = _Header(data, self._size, path.name)
            self.fields, entries, base = header.read()
        self.tensors = {name: self._blocks(name, shape, kind, base + offset) for name, shape, kind, offset in entries}

    def _blocks(self, name: str, shape: tuple[int, ...], kind: int, start: int) -> Blocks:
        if kind not in KINDS and kind not in FLOATS:
            accepted = ", ".join([*(each.name for each in KINDS.values()), *(each for each, _ in FLOATS.values())])
            raise CheckpointError(f"{self.path.name}: tensor {name!r} is of ggml type {kind}, which is not read; accepted: {accepted}")
        count = math.prod(shape)
        each, size = (KINDS[kind].count, KINDS[kind].nbytes) if kind in KINDS else (1, FLOATS[kind][1].itemsize)
        if shape and shape[-1] % each:
            raise CheckpointError(f"{self.path.name}: tensor {name!r} of shape {shape} has rows of no whole blocks of {each}")
        nbytes = count // each * size
        if start + nbytes > self._size:
            raise CheckpointError(f"{self.path.name}: tensor {name!r} ends at byte {start + nbytes} of {self._size}: the file is truncated")
        return Blocks(shape, kind, start, nbytes)

    def raw(self, name: str) -> Tensor:
        """Return the bytes of a tensor: uint8 [blocks, bytes of a block]; of floats [elements, bytes of one]."""
        found = self.tensors[name]
        size = KINDS[found.kind].nbytes if found.kind in KINDS else FLOATS[found.kind][1].itemsize
        result = torch.empty(found.nbytes // size, size, dtype=torch.uint8)
        fill(Entry(self.path, self._descriptor, found.start, tuple(result.shape), torch.uint8, None), name, result, 0)
        return result

    def floats(self, name: str) -> Tensor:
        """Return the numbers of a tensor: in float32 where it is of few bits, else in its own dtype."""
        found = self.tensors[name]
        raw = self.raw(name)
        if found.kind in FLOATS:
            return raw.view(FLOATS[found.kind][1]).reshape(found.shape)
        codes, slope, minimum = KINDS[found.kind].lines(raw)
        groups = codes.reshape(*slope.shape, -1).float()
        return groups.mul_(slope.unsqueeze(-1)).add_(minimum.unsqueeze(-1)).reshape(found.shape)


class _Header:
    """Reads from the front on; nothing is taken that lies behind the end."""

    def __init__(self, data: Any, size: int, name: str) -> None:
        self._data, self._size, self._name, self._at = data, size, name, 4

    def read(self) -> tuple[dict[str, Any], list[tuple[str, tuple[int, ...], int, int]], int]:
        """Return the fields, what is said of the tensors, and where their bytes begin."""
        if self._data[:4] != MAGIC or (version := self._number("<I")) not in VERSIONS:
            raise CheckpointError(f"{self._name} is no GGUF file of version 2 or 3")
        tensors, fields = self._number("<Q"), self._number("<Q")
        self._fits(tensors, 24, f"{tensors} tensors (version {version})")
        self._fits(fields, 12, f"{fields} fields")
        found = {self._string(): self._value(self._number("<I")) for _ in range(fields)}
        entries = [self._entry() for _ in range(tensors)]
        if len(found) != fields or len({name for name, *_ in entries}) != tensors:
            raise CheckpointError(f"{self._name}: a field or tensor is there twice")
        align = found.get("general.alignment", ALIGNMENT)
        if type(align) is not int or not 1 <= align <= 1 << 20:
            raise CheckpointError(f"{self._name}: general.alignment takes a number from 1 on, got {align!r}")
        return found, entries, -(-self._at // align) * align

    def _fits(self, count: int, each: int, what: str) -> None:
        if count * each > self._size - self._at:
            raise CheckpointError(f"{self._name}: the header speaks of {what}, which the rest of its {self._size} bytes cannot hold")

    def _number(self, layout: str) -> Any:
        try:
            (value,) = struct.unpack_from(layout, self._data, self._at)
        except struct.error:
            raise CheckpointError(f"{self._name}: the file ends within its header") from None
        self._at += struct.calcsize(layout)
        return value

    def _string(self) -> str:
        length = self._number("<Q")
        self._fits(length, 1, f"a string of {length} bytes")
        self._at += length
        return bytes(self._data[self._at - length : self._at]).decode("utf-8", "replace")

    def _value(self, kind: int, depth: int = 0) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY and depth < MOST_DIMS:
            item, length = self._number("<I"), self._number("<Q")
            self._fits(length, struct.calcsize(SCALARS[item]) if item in SCALARS else 8, f"an array of {length} values")
            return [self._value(item, depth + 1) for _ in range(length)]
        if kind not in SCALARS:
            raise CheckpointError(f"{self._name}: a field is of type {kind}, which there is none of")
        return self._number(SCALARS[kind])

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dims = self._string(), self._number("<I")
        if dims > MOST_DIMS:
            raise CheckpointError(f"{self._name}: tensor {name!r} has {dims} dimensions; accepted: up to {MOST_DIMS}")
        sizes = [self._number("<Q") for _ in range(dims)]
        return name, tuple(reversed(sizes)), self._number("<I"), self._number("<Q")
