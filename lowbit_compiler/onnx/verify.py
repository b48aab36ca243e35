"""An exported file in ONNX Runtime against the same arithmetic in PyTorch: every output, and on failure the values inside."""

import io
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils import _pytree as pytree

from lowbit_compiler.errors import ExportError
from lowbit_compiler.onnx.build import INFO, Built, Request
from lowbit_compiler.onnx.origin import read
from lowbit_compiler.onnx.replay import NOISE, Inside, feeds, run
from lowbit_compiler.onnx.session import session

TOLERANCE = 1e-3  # of outputs in float32
UNITS = 8  # of roundoff, for outputs in float16: a different sum rounds differently
SHOWN = 20


@dataclass(frozen=True)
class Difference:
    """One value of the graph in both: its largest difference, as it is and against the largest value."""

    name: str
    where: str
    absolute: float
    relative: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance (False for NaN)."""
        return self.relative <= self.tolerance


@dataclass
class Verification:
    """Every output compared; where one differs, with equal roundings; where one still does, every value inside. ``str()`` is a table.

    Float noise of 1e-7 moves a value across the border between two codes now and then, which deep models carry to their outputs. So a
    file is right where every output agrees: as it is, or with ONNX Runtime's code wherever PyTorch's value lies at such a border
    (``followed``), or else where every value inside does, integers exactly, when it is computed from ONNX Runtime's own inputs to it.
    """

    outputs: list[Difference]
    followed: list[Difference] = field(default_factory=list)
    inside: list[Difference] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether the file computes what PyTorch computes."""
        return any(rows and all(row.agrees for row in rows) for rows in (self.outputs, self.followed, self.inside))

    def __rich__(self) -> Table:
        return _table(self)

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=150)
        console.print(_table(self))
        return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def check(path: Path, built: Built, request: Request) -> None:
    """Raise ExportError, with the differences, where the file at ``path`` does not agree with PyTorch."""
    result = compare(path, built, request)
    if not result.agrees:
        raise ExportError(f"the exported file does not compute what PyTorch does\n{result}")


def compare(path: Path, built: Built, request: Request, tolerance: float | None = None) -> Verification:
    """Compare the outputs of the file at ``path`` with those of ``built``, on the inputs of ``request``."""
    with torch.no_grad():
        expected = pytree.tree_leaves(built.program.module(check_guards=False)(*request.args, **request.kwargs))
    tensors = [value for value in expected if isinstance(value, Tensor)]
    try:
        running = session(path)
    except Exception as error:
        raise ExportError(f"ONNX Runtime {ort.__version__} cannot load {str(path)!r}: {error}") from error
    names = [output.name for output in running.get_outputs()]
    got = run(running, feeds(running, request), names)
    result = Verification([difference(name, "", a, b, tolerance) for name, a, b in zip(names, got, tensors, strict=True)])
    if result.agrees or read(path).graph != json.loads(built.model.metadata_props[INFO])["graph"]:
        return result
    inside = Inside(path, built)
    theirs = inside.values(request)
    result.followed = [difference(name, "", a, b, tolerance) for name, a, b in inside.followed(request, theirs)]
    if not result.agrees:
        result.inside = [
            difference(name, inside.places.get(name, "output"), a, b, NOISE if b.dtype is torch.float32 else None)
            for name, a, b in inside.stepwise(request, theirs)
        ]
    return result


def difference(name: str, where: str, got: Tensor, want: Tensor, tolerance: float | None = None) -> Difference:
    """Return how far ``got`` is from ``want``. NaN agrees with NaN and Inf with the same Inf, and with nothing else."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return Difference(f"{name}: {got.dtype} {tuple(got.shape)} for {want.dtype} {tuple(want.shape)}", where, np.inf, np.inf, 0.0)
    if not want.is_floating_point():
        gap = float((got.double() - want.double()).abs().max()) if want.numel() else 0.0
        return Difference(name, where, gap, gap, 0.0)
    if tolerance is None:
        tolerance = TOLERANCE if want.dtype in (torch.float32, torch.float64) else UNITS * torch.finfo(want.dtype).eps
    a, b = got.double(), want.double()
    same = (a == b) | (a.isnan() & b.isnan())
    gaps = torch.where(same, torch.zeros_like(a), (a - b).abs())
    gap = float(gaps.max()) if gaps.numel() else 0.0
    finite = b[torch.isfinite(b)]
    size = float(finite.abs().max()) if finite.numel() else 0.0
    return Difference(name, where, gap, gap / size if size else gap, tolerance)


def _table(result: Verification) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("value", "module", "largest difference", "relative", "tolerance", ""):
        table.add_column(name, overflow="fold", justify="right" if name in ("largest difference", "relative", "tolerance") else "left")
    wrong = [row for row in result.inside if not row.agrees]
    followed = [replace(row, name=f"{row.name}, with equal roundings") for row in result.followed]
    for row in (*wrong[:SHOWN], *result.outputs, *followed):
        mark = "agrees" if row.agrees else "differs"
        table.add_row(row.name, row.where, f"{row.absolute:.3g}", f"{row.relative:.3g}", f"{row.tolerance:.3g}", mark)
    if wrong:
        table.caption = (
            f"{len(wrong)} of {len(result.inside)} values inside differ given their inputs; the first {SHOWN} are shown, then the outputs"
        )
    elif result.inside:
        table.caption = (
            f"all {len(result.inside)} values inside agree given their inputs: outputs differ by decisions that float noise turned"
        )
    elif result.followed:
        table.caption = "outputs differ by codes that float noise moved by one"
    elif not result.agrees:
        table.caption = "values inside cannot be compared: the model now gives another graph than the one exported (versions, or its code)"
    return table
