"""The CUDA kernels as host C++ (tests/cuda/emulator.h), called on CPU tensors: what there is to test without a GPU."""

import ctypes
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "-x",
    "c++",
    "-std=c++17",
    "-O1",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-DLOWBIT_EMULATED",
    "-Wall",
    "-Wno-unknown-pragmas",
]
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
TREATMENTS = {"": 0, "_rotated": 1, "_columns": 2, "_rows": 3}
GUARD = 64  # elements on both sides of every result that must stay as they are


def build(folder: Path, compiler: str, csrc: Path = ROOT / "csrc") -> Path:
    """Compile the kernels of ``csrc`` and the emulator into a library in ``folder``."""
    include = [f"-I{csrc}", f"-I{ROOT / 'tests' / 'cuda'}"]

    def compile_one(source: Path) -> str:
        made = str(folder / f"{source.stem}.o")
        subprocess.run([compiler, *FLAGS, *include, "-c", str(source), "-o", made], check=True, timeout=240)
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, [*sorted((csrc / "cuda").glob("*.cu")), ROOT / "tests" / "cuda" / "emulated.cpp"]))
    library = folder / "libemulated.so"
    subprocess.run([compiler, "-shared", *objects, "-o", str(library)], check=True, timeout=120)
    return library


class Result:
    """A tensor to be written, between guards that show what was written beside it."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        size = torch.Size(shape).numel()
        self._memory = torch.empty(size + 2 * GUARD, dtype=dtype)
        self._memory.view(torch.uint8).fill_(0xA5)
        self.tensor = self._memory[GUARD : GUARD + size].view(shape)

    def checked(self) -> Tensor:
        """Return the tensor; its guards are whole."""
        edges = torch.cat([self._memory[:GUARD], self._memory[-GUARD:]]).view(torch.uint8)
        assert bool((edges == 0xA5).all()), "written beside the result"
        return self.tensor


class Emulated:
    """The ops with a CUDA kernel, under their own names and arguments."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self.seed = 0

    def _call(self, name: str, *args: object, memory: tuple[Tensor | None, ...]) -> None:
        self._library.emulate(ctypes.c_uint64(self.seed))
        for tensor in memory:
            if tensor is not None:
                storage = tensor.untyped_storage()
                self._library.announce(ctypes.c_void_p(storage.data_ptr()), ctypes.c_int64(storage.nbytes()))
        function = getattr(self._library, name)
        function.restype = ctypes.c_char_p
        error = function(*(_argument(arg) for arg in args))
        if error is not None:
            raise RuntimeError(f"{name}: {error.decode()}")

    def quantize_s8(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes and scales of ``x`` [rows, columns]."""
        q, scale = Result(tuple(x.shape), torch.int8), Result((x.shape[0], 1), torch.float32)
        self._call("quantize_s8", *_matrix(x), q.tensor, scale.tensor, memory=(x, q.tensor, scale.tensor))
        return q.checked(), scale.checked()

    def quantize_s4(self, w: Tensor, group: int) -> tuple[Tensor, Tensor]:
        """Return codes and group scales of ``w`` [N, K]."""
        q, scale = Result(tuple(w.shape), torch.int8), Result((w.shape[0], -(-w.shape[1] // group)), torch.float32)
        self._call("quantize_s4", *_matrix(w), group, q.tensor, scale.tensor, memory=(w, q.tensor, scale.tensor))
        return q.checked(), scale.checked()

    def rotate(self, x: Tensor) -> Tensor:
        """Return ``x`` rotated, padded to a multiple of 64 columns."""
        out = Result((x.shape[0], -(-x.shape[1] // 64) * 64), torch.float32)
        self.rotate_into(x, out.tensor)
        return out.checked()

    def rotate_into(self, x: Tensor, out: Tensor) -> None:
        """Write the same to ``out``."""
        self._call("rotate", *_matrix(x), out, memory=(x, out))

    def pack(self, q: Tensor, scale: Tensor, group: int, like: Tensor, name: str | None = None) -> Tensor:
        """Return packed codes of the format ``name`` in a tensor of the shape of ``like``; by default of s4 or, where ``group`` is 0, s8."""
        out = Result(tuple(like.shape), torch.int8)
        self._call(
            f"pack_{name or ('s4' if group else 's8')}", q, scale, q.shape[0], q.shape[1], group, out.tensor, memory=(q, scale, out.tensor)
        )
        return out.checked()

    def linear(self, op: str, x: Tensor, w: Tensor, bias: Tensor | None, n: int, *rest: object) -> Tensor:
        """Return what ``op``, a linear with a kernel, makes of ``x`` [M, K]; ``rest`` as in the op."""
        dtype = rest[-1] if isinstance(rest[-1], torch.dtype) else x.dtype
        out = Result((x.shape[0], n), dtype)
        common = (*_matrix(x), w, n, bias, DTYPES[bias.dtype] if bias is not None else 0, out.tensor, DTYPES[dtype])
        if op.startswith("linear_s8s8"):
            treatment = TREATMENTS[op.removeprefix("linear_s8s8")]
            size = self._size("s8s8_workspace", *x.shape, treatment)
            workspace = _poisoned(size)
            threshold = ctypes.c_float(float(rest[0]) if len(rest) == 2 else 0.0)  # type: ignore[arg-type]
            self._call("linear_s8s8", *common, treatment, threshold, workspace, memory=(x, w, bias, out.tensor, workspace))
        elif op.startswith("linear_s8u4_nested"):
            treatment = TREATMENTS[op.removeprefix("linear_s8u4_nested")]
            workspace = _poisoned(self._size("nested_workspace", *x.shape, rest[0], treatment))
            self._call("linear_s8u4_nested", *common, rest[0], treatment, workspace, memory=(x, w, bias, out.tensor, workspace))
        else:
            workspace = _poisoned(self._size("float_workspace", *_matrix(x)))
            group = rest[0] if len(rest) == 2 else 0
            self._call(op, *common, group, workspace, memory=(x, w, bias, out.tensor, workspace))
        return out.checked()

    def softmax(self, x: Tensor, scale: float, mask: Tensor | None, log: bool, dtype: torch.dtype | None, dim: int = 1) -> Tensor:
        """Return the softmax along ``dim``, the last dimension or the one before it; ``mask`` broadcasts to ``x``."""
        out = Result(tuple(x.shape), dtype or x.dtype)
        kind = 0 if mask is None else 1 if mask.dtype is torch.bool else 2
        masked = (0,) * x.dim() if mask is None else mask.expand(x.shape).stride()
        columns = x.shape[-1] if dim == x.dim() - 2 else 1
        outer = x.shape[:dim]
        lists = [torch.tensor(values) for values in ([*outer, 0], *(s[: dim + 1] for s in (x.stride(), masked, out.tensor.stride())))]
        splat = int(masked[dim if columns == 1 else dim + 1] == 0)
        mask_dtype = DTYPES.get(mask.dtype, 0) if mask is not None else 0
        rest = (DTYPES[x.dtype], ctypes.c_double(scale), mask, kind, mask_dtype, splat, int(log), out.tensor, DTYPES[out.tensor.dtype])
        self._call("softmax", x, x.shape[dim], columns, dim, *lists, *rest, memory=(x, mask, out.tensor))
        return out.checked()

    def _size(self, name: str, *args: object) -> int:
        function: Callable[..., int] = getattr(self._library, name)
        function.restype = ctypes.c_int64  # type: ignore[attr-defined]
        return function(*(_argument(arg) for arg in args))


def _poisoned(size: int) -> Tensor:
    return torch.full((size,), 0xFB, dtype=torch.uint8)


def _matrix(x: Tensor) -> tuple[object, ...]:
    return x, x.stride(0) if x.shape[0] > 1 else x.shape[1], x.shape[0], x.shape[1], DTYPES[x.dtype]


def _argument(value: object) -> object:
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_int64(value) if isinstance(value, int) else value
