"""Tensors in safetensors files, read by ``pread``: nothing is mapped, so nothing of a file stays in memory but what is asked for.

The files may come from anywhere. What a header says is checked against the file before anything is allocated, and what is read against the
checksum, where the writer left one.
"""

import math
import os
import weakref
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.checkpoints import json_file
from lowbit_compiler.errors import CheckpointError

WHOLE, INDEX, SUFFIX = "model.safetensors", "model.safetensors.index.json", ".safetensors"
INDEXED = INDEX.removeprefix("model")
CHECKSUMS = "lowbit.crc32"
"""Key of the metadata in a header: JSON of the CRC-32 of each tensor's bytes."""
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
CHUNK = 1 << 22
"""Bytes of one read."""


@dataclass(frozen=True)
class Entry:
    """Where a tensor is."""

    path: Path
    descriptor: int
    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    checksum: int | None

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


class TensorFiles(Mapping[str, Entry]):
    """The tensors of a file, or of the files in a folder that its index names."""

    def __init__(self, source: Path) -> None:
        """Read the headers; raises CheckpointError for what is not as it should be."""
        self._entries: dict[str, Entry] = {}
        self._descriptors: list[int] = []
        self._finalizer = weakref.finalize(self, _close, self._descriptors)
        for path, names in _files(source):
            found = self._header(path)
            for name in found if names is None else names:
                if name not in found:
                    raise CheckpointError(
                        f"{path.name} has no tensor {name!r}, which the index says is in it: files of another checkpoint?"
                    )
                self._entries[name] = found[name]

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def close(self) -> None:
        """Close the files."""
        self._finalizer()

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Return a tensor, or its rows ``start`` to ``stop``; of a whole one the checksum is checked."""
        entry = self._entries[name]
        rows = entry.shape if stop is None else (min(stop, entry.shape[0]) - start, *entry.shape[1:])
        result = torch.empty(rows, dtype=entry.dtype)
        offset = 0 if stop is None else start * math.prod(entry.shape[1:]) * entry.dtype.itemsize
        checksum = fill(entry, name, result, offset)
        if stop is None and entry.checksum not in (None, checksum):
            raise CheckpointError(f"{entry.path.name}: the bytes of tensor {name!r} are not those that were written (CRC-32)")
        return result

    def _header(self, path: Path) -> dict[str, Entry]:
        descriptor = json_file.open_regular(path)
        self._descriptors.append(descriptor)
        size = os.fstat(descriptor).st_size
        length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
        if not 2 <= length <= min(json_file.MOST, size - 8):
            raise CheckpointError(f"{path.name}: a header of {length} bytes, in a file of {size}: it is truncated, or no safetensors file")
        said = json_file.parse(os.pread(descriptor, length, 8), f"the header of {path.name}")
        more = said.pop("__metadata__", {})
        checksums = json_file.parse(more[CHECKSUMS].encode(), CHECKSUMS) if isinstance(more, dict) and CHECKSUMS in more else {}
        found, ends = {}, []
        for name, one in said.items():
            found[name], end = _entry(path, descriptor, 8 + length, name, one, checksums.get(name))
            ends.append((found[name].start - 8 - length, end))
        at = 0
        for start, end in sorted(ends):
            if start != at:
                raise CheckpointError(f"{path.name}: tensors overlap, or there are bytes between them, at byte {start}")
            at = end
        if at != size - 8 - length:
            raise CheckpointError(f"{path.name}: the header speaks of {at} bytes, there are {size - 8 - length}: it is truncated")
        return found


def fill(entry: Entry, name: str, result: Tensor, offset: int) -> int:
    """Fill the dense ``result`` with the bytes from ``offset`` of a tensor on; returns their CRC-32."""
    checksum, at = 0, 0
    if not result.numel():
        return checksum
    view = bytes_of(result)
    while at < len(view):
        read = os.preadv(entry.descriptor, [view[at : at + CHUNK]], entry.start + offset + at)
        if read == 0:
            raise CheckpointError(f"{entry.path.name}: the file ends within tensor {name!r}")
        if entry.checksum is not None:
            checksum = zlib.crc32(view[at : at + read], checksum)
        at += read
    return checksum


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the memory of a dense tensor on the CPU."""
    array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


def _files(source: Path) -> Iterator[tuple[Path, list[str] | None]]:
    """Yield each file with the names of its tensors (None: all)."""
    path = _first(source) if source.is_dir() else source
    if not path.name.endswith(INDEXED):
        yield path, None
        return
    where = json_file.read(path).get("weight_map")
    if not isinstance(where, dict):
        raise CheckpointError(f"{path.name} takes an object weight_map of tensors and files, got {type(where).__name__}")
    by_file: dict[str, list[str]] = {}
    for name, file in where.items():
        if not isinstance(file, str) or file != os.path.basename(file) or not file.endswith(SUFFIX) or file.startswith(".") or "\0" in file:
            raise CheckpointError(f"{path.name}: the file of {name!r} takes the name of a {SUFFIX} file beside it, got {file!r}")
        by_file.setdefault(file, []).append(name)
    for file, names in by_file.items():
        yield path.parent / file, names


def _first(folder: Path) -> Path:
    """Return the index of a folder, or its one file: by the names of transformers, else the only one there is (diffusers has others)."""
    for usual in (INDEX, WHOLE):
        ending = usual.removeprefix("model")
        found = sorted(path for path in folder.glob(f"*{ending}") if not path.name.startswith("."))
        if folder / usual in found:
            return folder / usual
        if len(found) == 1:
            return found[0]
        if found:
            raise CheckpointError(
                f"{folder} has {len(found)} files *{ending}, and no {usual}: pass the path of one, such as {found[0].name!r}"
            )
    raise CheckpointError(f"{folder} has neither {WHOLE} nor {INDEX}, nor one file of another name that ends so")


def _entry(path: Path, descriptor: int, data: int, name: str, said: Any, checksum: Any) -> tuple[Entry, int]:
    """Return the entry that a header says, and where it ends."""
    what = f"{path.name}: tensor {name!r}"
    said = said if isinstance(said, dict) else {}
    dtype, shape, offsets = said.get("dtype"), said.get("shape"), said.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(f"{what}: dtype takes one of {', '.join(DTYPES)}, got {dtype!r}")
    for key, value in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(value, list) or not all(type(number) is int and 0 <= number < 2**63 for number in value):
            raise CheckpointError(f"{what}: {key} takes numbers from 0 on, got {str(value)[:100]}")
    assert shape is not None
    assert offsets is not None
    entry = Entry(
        path, descriptor, data + (offsets[0] if offsets else 0), tuple(shape), DTYPES[dtype], checksum if type(checksum) is int else None
    )
    if len(offsets) != 2 or len(shape) > 64 or offsets[1] - offsets[0] != entry.nbytes:
        raise CheckpointError(f"{what}: {dtype} of shape {shape} has {entry.nbytes} bytes, and data_offsets are {offsets}")
    return entry, offsets[1]


def _close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())
