"""JSON from anywhere: of bounded size, without a key twice, with one error for all that is wrong with it."""

import json
import os
import stat
from pathlib import Path
from typing import Any

from lowbit_compiler.errors import CheckpointError

MOST = 100_000_000
"""Bytes of a file of JSON, or of a header: what the format of safetensors allows."""


def parse(text: bytes, what: str) -> dict[str, Any]:
    """Return the object that ``text`` holds; raises CheckpointError, about ``what``, where it is none."""
    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is no JSON: {type(error).__name__}: {str(error)[:200]}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{what} takes an object, got {type(found).__name__}")
    return found


def read(path: Path) -> dict[str, Any]:
    """Return the object in a file; raises CheckpointError."""
    descriptor = open_regular(path)
    try:
        size = os.fstat(descriptor).st_size
        if size > MOST:
            raise CheckpointError(f"{path} has {size} bytes; accepted: up to {MOST}")
        with open(descriptor, "rb", closefd=False) as file:
            return parse(file.read(MOST), str(path))
    finally:
        os.close(descriptor)


def open_regular(path: Path) -> int:
    """Return a descriptor for reading a regular file, or what a link to one leads to; raises CheckpointError for anything else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would wait for a writer
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{path} is no regular file")
    return descriptor


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return found
