"""What this machine and installation can do: ``lowbit doctor``."""

import os
import platform

import torch
from rich.console import Group, RenderableType
from rich.table import Table

from lowbit_compiler.options import ENVIRONMENT
from lowbit_compiler.runtime import cuda_library, kernels, library
from lowbit_compiler.runtime.ops import LINEAR_SCHEMAS

ROWS = 512


def doctor() -> Group:
    """Return the findings as rich tables: machine, library, kernel of each op, environment variables."""
    return Group(_machine(), "", _kernels(), "", _environment())


def _machine() -> RenderableType:
    status = library.status()
    table = _table("", "")
    table.add_row("Python, torch", f"{platform.python_version()}, {torch.__version__}, {torch.get_num_threads()} threads")
    table.add_row("native library", str(status.path) if status.path else f"not loaded: {status.reason}")
    table.add_row("for programs without Python", str(library.ops_path() or "-"))
    table.add_row("instruction sets", f"found {', '.join(status.detected) or '-'}; in use {', '.join(status.active) or '-'}")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none that torch can use"
    table.add_row("GPU", gpu)
    cuda = cuda_library.status()
    table.add_row("CUDA library", str(cuda.path) if cuda.path else f"not loaded: {cuda.reason}; models on a GPU stay in float")
    if status.path is None:
        table.add_row("", "every op runs in plain torch, slowly: build with a C++ compiler (make test sets it up)")
    return table


def _kernels() -> RenderableType:
    table = _table("op", "kernel for 1 row", f"for {ROWS} rows")
    for op in (*LINEAR_SCHEMAS, "softmax", "sdpa", "sdpa_codes"):
        table.add_row(f"lowbit::{op}", kernels.kernel_for(op, m=1), kernels.kernel_for(op, m=ROWS))
    return table


def _environment() -> RenderableType:
    table = _table("variable", "value", "meaning")
    for name, meaning in ENVIRONMENT.items():
        table.add_row(name, os.environ.get(name, "-"), meaning)
    for name in sorted(name for name in os.environ if name.startswith("LOWBIT_") and name not in ENVIRONMENT):
        table.add_row(name, os.environ[name], "[bold red]unknown: compiling raises until it is unset[/bold red]")
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, show_header=any(names))
    for name in names:
        table.add_column(name, overflow="fold")
    return table
