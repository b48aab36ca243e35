"""Finds and loads the CUDA library, whose kernels serve tensors on a GPU; without it a CUDA model stays in float.

Environment: ``LOWBIT_CUDA_LIBRARY`` is the path of a library to load, also where torch has no CUDA: it can be looked at there, not run.
``LOWBIT_NATIVE=0`` skips it.
"""

import ctypes
import importlib.resources
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from lowbit_compiler.runtime.library import require_same_build
from lowbit_compiler.torch_internals.dispatch import has_kernel

FILE = "liblowbit_cuda.so"


@dataclass(frozen=True)
class Status:
    """What was loaded: ``path``, or the ``reason`` for which nothing was."""

    path: Path | None
    reason: str | None


_handle: ctypes.CDLL | None = None
_status = Status(None, "not loaded yet")


def library_path() -> Path:
    """Return where the library is expected; it need not exist."""
    override = os.environ.get("LOWBIT_CUDA_LIBRARY")
    return Path(override) if override else Path(str(importlib.resources.files("lowbit_compiler") / "lib" / FILE))


def load() -> None:
    """Load the library once, where torch is a CUDA build or the environment names one.

    Raises:
        OSError: ``LOWBIT_CUDA_LIBRARY`` names a file that cannot be loaded.
    """
    global _handle, _status
    asked = bool(os.environ.get("LOWBIT_CUDA_LIBRARY"))
    if _handle is not None:
        return
    if os.environ.get("LOWBIT_NATIVE") == "0":
        _status = Status(None, "LOWBIT_NATIVE=0")
        return
    # Not torch.cuda.is_available(): it starts CUDA in this process, and its children could not use a GPU any more.
    if torch.version.cuda is None and not asked:
        _status = Status(None, f"torch {torch.__version__} has no CUDA")
        return
    path = library_path()
    if not path.exists() and not asked:
        _status = Status(None, f"{path} does not exist: the package was built without nvcc")
        return
    try:
        require_same_build(path)
        torch.ops.load_library(path)
    except OSError as error:
        if asked:
            raise OSError(f"LOWBIT_CUDA_LIBRARY: cannot load {path}: {error}") from error
        _status = Status(None, f"{path} cannot be loaded: {error}")
        return
    _handle, _status = ctypes.CDLL(str(path)), Status(path, None)


def status() -> Status:
    """Return what was loaded, or why nothing was."""
    return _status


def kernel_for(op: str, m: int, n: int) -> str:
    """Return the kernel that ``op`` gets on a GPU for ``m`` rows and ``n`` outputs; "reference" if none."""
    if _handle is None or not has_kernel(getattr(torch.ops.lowbit, op).default, "cuda"):
        return "reference"
    _handle.lowbit_cuda_kernel.restype = ctypes.c_char_p
    name: bytes | None = _handle.lowbit_cuda_kernel(op.encode(), ctypes.c_int64(m), ctypes.c_int64(n))
    return name.decode() if name else "reference"
