"""Finds and loads the native CPU library; without it every op runs on its plain-torch reference.

Environment: ``LOWBIT_NATIVE=0`` skips the library, ``LOWBIT_LIBRARY`` is the path of another one, ``LOWBIT_ISA`` (scalar, avx2,
vnni, bf16, amx or neon) caps the instruction sets it uses.
"""

import ctypes
import functools
import importlib.resources
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch

log = logging.getLogger("lowbit_compiler")

FILE = "liblowbit_cpu.so"
OPS = "liblowbit_ops.so"  # csrc/bind/schemas.cpp
ABI = b"lowbit abi 11\0"  # as in csrc/bind/abi.cpp
ISA_LEVELS = {"scalar": 1, "avx2": 2, "vnni": 4, "bf16": 8, "amx": 16, "neon": 32}  # as in csrc/common/kernels.h


@dataclass(frozen=True)
class Status:
    """What was loaded: ``path``, or the ``reason`` for which nothing was; ISA names from the least to the most capable."""

    path: Path | None
    reason: str | None
    detected: tuple[str, ...] = ()
    active: tuple[str, ...] = ()

    @property
    def isa(self) -> str | None:
        """The most capable active instruction set."""
        return self.active[-1] if self.active else None


_handle: ctypes.CDLL | None = None
_path: Path | None = None
_reason: str | None = "not loaded yet"


def names_of(mask: int) -> tuple[str, ...]:
    """Return the names of the ISA levels in ``mask``."""
    return tuple(name for name, bit in ISA_LEVELS.items() if mask & bit)


def _require_level(isa: str) -> None:
    if isa not in ISA_LEVELS:
        raise ValueError(f"LOWBIT_ISA: expected one of {', '.join(ISA_LEVELS)}, got {isa!r}")


def mask_up_to(isa: str, available: int) -> int:
    """Return the levels of ``available`` up to ``isa``.

    Raises:
        ValueError: ``isa`` is unknown, or not in ``available``.
    """
    _require_level(isa)
    if not available & ISA_LEVELS[isa]:
        raise ValueError(f"LOWBIT_ISA: this machine has {', '.join(names_of(available))}, got {isa!r}")
    return available & (2 * ISA_LEVELS[isa] - 1)


def library_path() -> Path:
    """Return where the library is expected; it need not exist."""
    override = os.environ.get("LOWBIT_LIBRARY")
    # Not Path(__file__): an editable install keeps the library apart from the Python files.
    return Path(override) if override else Path(str(importlib.resources.files("lowbit_compiler") / "lib" / FILE))


def ops_path() -> Path | None:
    """Return the library that programs without Python load, beside the one that is loaded here; None where there is none."""
    path = None if _path is None else _path.with_name(OPS)
    return path if path is not None and path.exists() else None


def require_same_build(path: Path) -> None:
    """Raise OSError unless the library at ``path`` was built for the ops and the calls of these Python files.

    Asked of the file: once it is loaded, its kernels are those of the ops.
    """
    if ABI not in path.read_bytes():
        raise OSError("it was built for other Python files than these: build it again")


def load() -> None:
    """Load the library once, unless the environment says not to.

    Raises:
        ValueError: an environment variable has a value that is not accepted.
        OSError: ``LOWBIT_LIBRARY`` names a file that cannot be loaded.
    """
    global _handle, _path, _reason
    native = os.environ.get("LOWBIT_NATIVE", "1")
    if native not in ("0", "1"):
        raise ValueError(f"LOWBIT_NATIVE: expected 0 or 1, got {native!r}")
    isa = os.environ.get("LOWBIT_ISA")
    if isa is not None:
        _require_level(isa)
    if _handle is not None:
        return
    if native == "0":
        _reason = "LOWBIT_NATIVE=0"
        return
    path = library_path()
    if not path.exists() and "LOWBIT_LIBRARY" not in os.environ:
        _reason = f"{path} does not exist: the package was installed without a C++ compiler, or with LOWBIT_CPU=0"
        return
    try:
        require_same_build(path)
        torch.ops.load_library(path)
    except OSError as error:
        if "LOWBIT_LIBRARY" in os.environ:
            raise OSError(f"LOWBIT_LIBRARY: cannot load {path}: {error}") from error
        _reason = f"{path} cannot be loaded: {error}"
        return
    handle = ctypes.CDLL(str(path))
    if isa is not None:
        handle.lowbit_set_isa(mask_up_to(isa, handle.lowbit_detected_isa()))
    _handle, _path, _reason = handle, path, None


def handle() -> ctypes.CDLL | None:
    """Return the loaded library for calls of its C functions, or None."""
    return _handle


@functools.cache
def warn_if_missing() -> None:
    """Say once that the library is not loaded, unless LOWBIT_NATIVE=0 asked for that."""
    if _handle is None and os.environ.get("LOWBIT_NATIVE") != "0":
        log.warning("no native library, so lowbit's ops run in plain torch, slowly: %s (LOWBIT_NATIVE=0: that is meant)", _reason)


def status() -> Status:
    """Return what was loaded, or why nothing was."""
    if _handle is None:
        return Status(None, _reason)
    return Status(_path, None, names_of(_handle.lowbit_detected_isa()), names_of(_handle.lowbit_active_isa()))
