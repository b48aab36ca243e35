"""The kernels of the loaded library: which there are, which one an op gets, and a way to choose another in tests."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, takewhile

import torch

from lowbit_compiler.runtime import chain, library
from lowbit_compiler.runtime.formats import QUANTIZED
from lowbit_compiler.runtime.formats.operand import op_name
from lowbit_compiler.runtime.products import PRODUCTS

FAMILIES = {
    **{product.op: product.family for product in PRODUCTS.values()},
    **{op_name("quantize", *kind): "rows" for kind in QUANTIZED},
    "rotate": "rows",
    "train_quantize": "rows",
    "train_multiply": "qgemm",
    "train_fold": "qgemm",
    chain.OP: "qgemm",
    "sdpa": "attention",
    "sdpa_codes": "attention_codes",
    "softmax": "softmax",
}
"""The kernels that do most of each op's work."""
_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


@dataclass(frozen=True)
class Kernel:
    """A line of csrc/common/kernels.inc."""

    family: str
    name: str
    isa: str
    min_m: int
    bf16_only: bool


class _Kernel(ctypes.Structure):
    _fields_ = (
        ("family", ctypes.c_char_p),
        ("name", ctypes.c_char_p),
        ("min_m", ctypes.c_int64),
        ("isa", ctypes.c_uint32),
        ("bf16_only", ctypes.c_uint32),
    )


def _library() -> ctypes.CDLL:
    handle = library.handle()
    if handle is None:
        raise RuntimeError(f"no native library: {library.status().reason}")
    handle.lowbit_kernel_count.restype = ctypes.c_int64
    handle.lowbit_kernel_at.restype = _Kernel
    handle.lowbit_kernel_at.argtypes = [ctypes.c_int64]
    handle.lowbit_family_at.restype = ctypes.c_char_p
    handle.lowbit_family_at.argtypes = [ctypes.c_int64]
    handle.lowbit_select.restype = ctypes.c_char_p
    handle.lowbit_select.argtypes = [ctypes.c_char_p, ctypes.c_uint32, ctypes.c_int64, ctypes.c_int]
    handle.lowbit_force_kernel.argtypes = [ctypes.c_char_p]
    handle.lowbit_softmax_passes.argtypes = [ctypes.c_int64, ctypes.c_int, ctypes.c_int]
    handle.lowbit_softmax_threshold.restype = ctypes.c_int64
    handle.lowbit_set_softmax_threshold.argtypes = [ctypes.c_int64]
    return handle


def kernels() -> list[Kernel]:
    """Return all kernels of the library, also those this machine cannot run; empty without a library."""
    if library.handle() is None:
        return []
    handle = _library()
    rows = [handle.lowbit_kernel_at(i) for i in range(handle.lowbit_kernel_count())]
    return [Kernel(r.family.decode(), r.name.decode(), library.names_of(r.isa)[0], r.min_m, bool(r.bf16_only)) for r in rows]


def families() -> tuple[str, ...]:
    """Return the names of the families of kernels (csrc/common/families.inc); none without a library."""
    if library.handle() is None:
        return ()
    return tuple(name.decode() for name in takewhile(bool, map(_library().lowbit_family_at, count())))


def select(family: str, isa_mask: int, m: int, dtype: torch.dtype) -> str:
    """Return the name of the kernel of ``family`` chosen for ISA bits, number of rows and dtype of x, on any machine."""
    name = _library().lowbit_select(family.encode(), isa_mask, m, _DTYPES[dtype])
    if name is None:
        raise ValueError(f"expected a family in {sorted(families())}, got {family!r}")
    return str(name.decode())


def kernel_for(op: str, isa: str | None = None, m: int = 512, dtype: torch.dtype = torch.bfloat16) -> str:
    """Return the kernel that ``op`` gets for ``m`` rows of ``dtype``, here or with levels up to ``isa``; "reference" if none.

    Raises:
        ValueError: ``isa`` is not one of the known levels.
    """
    if isa is not None and isa not in library.ISA_LEVELS:
        raise ValueError(f"expected isa in {tuple(library.ISA_LEVELS)}, got {isa!r}")
    if library.handle() is None or op not in FAMILIES:
        return "reference"
    mask = _library().lowbit_active_isa() if isa is None else 2 * library.ISA_LEVELS[isa] - 1
    return select(FAMILIES[op], mask, m, dtype)


@contextmanager
def using(isa: str | None = None, kernel: str | None = None) -> Iterator[None]:
    """Limit the ISA levels, or take ``kernel`` for its family whatever the number of rows; for tests and benchmarks.

    Raises:
        ValueError: this machine lacks ``isa``, or there is no such kernel.
    """
    handle = _library()
    before = handle.lowbit_active_isa()
    if isa is not None:
        handle.lowbit_set_isa(library.mask_up_to(isa, handle.lowbit_detected_isa()))
    try:
        if kernel is not None and not handle.lowbit_force_kernel(kernel.encode()):
            raise ValueError(f"no kernel {kernel!r}")
        yield
    finally:
        handle.lowbit_set_isa(before)
        handle.lowbit_force_kernel(None)


_ALGORITHMS = {2: "two-pass", 3: "three-pass"}


def softmax_passes(n: int, dtype: torch.dtype, out_dtype: torch.dtype | None = None) -> str:
    """Return the algorithm that rows of ``n`` elements of ``dtype`` take: "two-pass" past the cache, "three-pass" within."""
    return _ALGORITHMS[_library().lowbit_softmax_passes(n, _DTYPES[dtype], _DTYPES[out_dtype or dtype])]


@contextmanager
def forcing_softmax(algorithm: str) -> Iterator[None]:
    """Take "two-pass" or "three-pass" for rows of any length; for tests and benchmarks.

    Raises:
        ValueError: there is no such algorithm.
    """
    passes = {name: number for number, name in _ALGORITHMS.items()}
    if algorithm not in passes:
        raise ValueError(f"expected an algorithm in {sorted(passes)}, got {algorithm!r}")
    handle = _library()
    handle.lowbit_force_softmax(passes[algorithm])
    try:
        yield
    finally:
        handle.lowbit_force_softmax(0)
