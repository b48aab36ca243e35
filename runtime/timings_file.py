"""Timings as a file: the seconds of each candidate of a call, by call, and what they were measured on.

The planner's cache of a machine (runtime/timings.py) and the plan files that users name hold the same JSON.
"""

import functools
import json
import math
import os
import platform
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from lowbit_compiler.runtime import cuda_library, library

FORMAT = 2
MOST_BYTES = 1 << 24  # of a file: thousands of models have less
NAMED = ("cpu", "isa", "threads", "torch", "lowbit")
"""What a person calls a machine by: of :func:`machine`, all but the marks of a build."""

Seconds = dict[str, float]


@dataclass(frozen=True)
class Timings:
    """What a file holds."""

    path: Path
    machine: dict[str, Any]
    """Of :func:`machine`, when they were measured."""
    seconds: dict[str, Seconds]

    def differences(self) -> str:
        """Return in what the machine that they were measured on is another than this one; "" where in nothing that has a name."""
        here = machine()
        found = (name for name in NAMED if self.machine.get(name) != here[name])
        return "; ".join(f"{name} {_words(self.machine.get(name))}, here {_words(here[name])}" for name in found)


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def machine() -> dict[str, Any]:
    """Return what the timings depend on."""
    status, cuda = library.status(), cuda_library.status()
    file = status.path.stat() if status.path is not None else None
    gpu = {"cuda library": [cuda.path.stat().st_mtime_ns, cuda.path.stat().st_size]} if cuda.path is not None else {}
    return gpu | {
        "format": FORMAT,
        "lowbit": _version(),
        "cpu": _cpu(),
        "isa": list(status.active),
        "library": None if file is None else [file.st_mtime_ns, file.st_size],
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
    }


@functools.cache
def _version() -> str:
    try:
        return version("lowbit-compiler")
    except PackageNotFoundError:  # imported from its files, not installed
        return "unknown"


@functools.cache
def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "CPU part")))
    return next(names, platform.processor() or platform.machine())


def text(seconds: dict[str, Seconds]) -> str:
    """Return what a file with the ``seconds`` of each candidate, by call, holds if they were measured here and now."""
    return json.dumps({"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), "seconds": seconds}, indent=1) + "\n"


def read(path: Path) -> Timings:
    """Return what the file at ``path`` holds, whatever machine it is of.

    Raises OSError where there is none or it cannot be read, ValueError where it holds something else.
    """
    found = _text(path)
    try:
        return _parsed(path, found)
    except (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"no timings: {type(error).__name__}: {error}") from error


def _text(path: Path) -> str:
    """Return the text of a regular file: a FIFO is not waited for, and nothing endless is read."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
            raise ValueError(f"no regular file of at most {MOST_BYTES >> 20} MB")
        return os.read(descriptor, MOST_BYTES).decode()
    finally:
        os.close(descriptor)


def _parsed(path: Path, found: str) -> Timings:
    stored = json.loads(found)
    machine = dict(stored["machine"])
    if machine["format"] != FORMAT:
        raise ValueError(f"its format is {machine['format']}; accepted: {FORMAT}")
    seconds = {str(key): {str(name): float(s) for name, s in each.items()} for key, each in stored["seconds"].items()}
    if not all(0 < s < math.inf for each in seconds.values() for s in each.values()):
        raise ValueError("a time that is no finite number of seconds above 0")
    return Timings(path, machine, seconds)
