"""GGUF files written byte by byte: fields, and blocks whose numbers are plain to see."""

import struct
from pathlib import Path

import numpy as np
import torch

from lowbit_compiler.checkpoints.formats.gguf_file import GGUFFile

NUMBERS = np.arange(32)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def half(value: float) -> bytes:
    return np.float16(value).tobytes()


def nibbles(codes: np.ndarray) -> bytes:
    return (codes[:16] & 15 | (codes[16:] & 15) << 4).astype(np.uint8).tobytes()


def one(path: Path, kind: int, block: bytes) -> GGUFFile:
    """Return a file of one field and one tensor, a block of 32 numbers."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, 1)
    field = text("names") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("bc")
    body = head + field + text("w") + struct.pack("<IQQIQ", 2, 32, 1, kind, 0)
    path.write_bytes(body + bytes(-len(body) % 32) + block)
    return GGUFFile(path)


def same(file: GGUFFile, want: np.ndarray) -> None:
    assert torch.equal(file.floats("w"), torch.from_numpy(want[None].astype(np.float32)))


def test_fields_and_q8_0(tmp_path: Path) -> None:
    codes = (NUMBERS - 16).astype(np.int8)
    file = one(tmp_path / "a.gguf", 8, half(0.5) + codes.tobytes())
    assert file.fields == {"names": ["a", "bc"]}
    same(file, codes * 0.5)


def test_q4_1(tmp_path: Path) -> None:
    same(one(tmp_path / "a.gguf", 3, half(0.25) + half(-2) + nibbles(NUMBERS)), NUMBERS % 16 * 0.25 - 2)


def test_q5_0(tmp_path: Path) -> None:
    """The bit of 16 of each number in front: those of the last sixteen are set."""
    same(one(tmp_path / "a.gguf", 6, half(0.25) + struct.pack("<I", 0xFFFF0000) + nibbles(NUMBERS)), (NUMBERS - 16) * 0.25)
