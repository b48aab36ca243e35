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

from lowbit_compiler.errors import ExportError
from lowbit_compiler.onnx.build import INFO, Built, Progress, Request
from lowbit_compiler.onnx.origin import read
from lowbit_compiler.onnx.replay import NOISE, Inside, feeds, run
from lowbit_compiler.onnx.session import session
from lowbit_compiler.torch_internals import trees
from lowbit_compiler.verify import sqnr

TOLERANCE = 1e-3  # of outputs in float32
UNITS = 8  # of roundoff, for outputs in float16: a different sum rounds differently
SPREAD = 2.0**-11
"""The least that an element is compared with, against the largest of its tensor: with TOLERANCE, four units of float32."""
SHOWN = 20


@dataclass(frozen=True)
class Difference:
    """One value of the graph in both: its largest difference, as it is and against the size of its row or column."""

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
    (``followed``). ``inside`` tells where a wrong file is wrong: each value against the same computed from ONNX Runtime's inputs to it.
    """

    outputs: list[Difference]
    followed: list[Difference] = field(default_factory=list)
    inside: list[Difference] = field(default_factory=list)
    sqnr: dict[str, float] = field(default_factory=dict)
    """dB of each output in floating point against what the model itself returns: what low precision costs on these inputs."""

    @property
    def agrees(self) -> bool:
        """Whether the file computes what PyTorch computes."""
        return _all_agree(self.outputs) or _all_agree(self.followed)

    def __rich__(self) -> Table:
        return _table(self)

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=150)
        console.print(_table(self))
        return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def _all_agree(rows: list[Difference]) -> bool:
    return bool(rows) and all(row.agrees for row in rows)


def check(path: Path, built: Built, request: Request, progress: Progress) -> None:
    """Raise ExportError, with the differences, where the file at ``path`` does not agree with PyTorch."""
    result = compare(path, built, request, None, progress)
    if not result.agrees:
        raise ExportError(f"the exported file does not compute what PyTorch does\n{result}")


def compare(
    path: Path, built: Built, request: Request, tolerance: float | None = None, progress: Progress = lambda stage: None
) -> Verification:
    """Compare the outputs of the file at ``path`` with those of ``built``, on the inputs of ``request``."""
    progress("running PyTorch")
    with torch.no_grad():
        expected = trees.tree_leaves(built.program.module(check_guards=False)(*request.args, **request.kwargs))
        args, kwargs = trees.tree_map_only(Tensor, torch.clone, (request.args, request.kwargs))  # a model may write to a cache
        own = trees.tree_leaves(request.model(*args, **kwargs))
    tensors, originals = ([value.detach() for value in values if isinstance(value, Tensor)] for values in (expected, own))
    progress("running ONNX Runtime")
    try:
        running = session(path)
    except Exception as error:
        raise ExportError(f"ONNX Runtime {ort.__version__} cannot load {str(path)!r}: {error}") from error
    names = [output.name for output in running.get_outputs()]
    got = run(running, feeds(running, request), names)
    result = Verification([difference(name, "", a, b, tolerance) for name, a, b in zip(names, got, tensors, strict=True)])
    pairs = zip(names, got, originals, strict=True)
    result.sqnr = {name: sqnr(a, b) for name, a, b in pairs if b.is_floating_point() and a.shape == b.shape}
    if result.agrees or read(path).graph != json.loads(built.model.metadata_props[INFO])["graph"]:
        return result
    progress("comparing with equal roundings")
    inside = Inside(path, built, decisions=True)
    outputs, theirs = inside.values(request)
    ours = inside.followed(request, theirs)
    result.followed = [difference(name, "", a, b, tolerance) for name, a, b in zip(names, outputs, ours, strict=True)]
    if not result.agrees:
        progress("comparing values inside")
        inside = Inside(path, built)
        result.inside = [
            difference(name, inside.places.get(name, "output"), a, b, NOISE if b.dtype is torch.float32 else None)
            for name, a, b in inside.stepwise(request, inside.values(request)[1])
        ]
    return result


def difference(name: str, where: str, got: Tensor, want: Tensor, tolerance: float | None = None) -> Difference:
    """Return how far ``got`` is from ``want``, at most, against the size of the row or of the column, whichever is less.

    Integers must be equal, as must Inf, NaN and what masks are filled with (from half of the dtype's largest number on).
    """
    if got.shape != want.shape or got.dtype != want.dtype:
        return Difference(f"{name}: {got.dtype} {tuple(got.shape)} for {want.dtype} {tuple(want.shape)}", where, np.inf, np.inf, 0.0)
    if not want.is_floating_point():
        gap = float((got.double() - want.double()).abs().max()) if want.numel() else 0.0
        return Difference(name, where, gap, gap, 0.0)
    if tolerance is None:
        tolerance = TOLERANCE if want.dtype in (torch.float32, torch.float64) else UNITS * torch.finfo(want.dtype).eps
    if not want.numel():
        return Difference(name, where, 0.0, 0.0, tolerance)
    a, b = (value.double().reshape(-1, want.shape[-1] if want.dim() else 1) for value in (got, want))
    gaps = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs())
    ordinary = b.abs() < torch.finfo(want.dtype).max / 2  # False for NaN
    relative = torch.where(ordinary | (gaps == 0), gaps / _sizes(b.abs().where(ordinary, 0.0)), np.inf)
    return Difference(name, where, float(gaps.max()), float(relative.max()), tolerance)


def _sizes(magnitudes: Tensor) -> Tensor:
    """Return what each element of ``magnitudes`` [M, N] is compared with, [M, N]: the largest of its row or of its column.

    Neither counts less than the median row, or column: so a few massive ones do not hide the others, and one that is close to zero by
    chance is not held to more digits than a sum has.
    """
    if not magnitudes.any():
        return torch.ones_like(magnitudes)
    rows, columns = magnitudes.amax(1, keepdim=True), magnitudes.amax(0, keepdim=True)
    row, column = (largest.clamp(min=float(largest[largest > 0].median())) for largest in (rows, columns))
    return torch.minimum(row, column).clamp(min=SPREAD * float(magnitudes.max()))


def _table(result: Verification) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("value", "module", "largest difference", "relative", "tolerance", ""):
        table.add_column(name, overflow="fold", justify="right" if name in ("largest difference", "relative", "tolerance") else "left")
    wrong = [row for row in result.inside if not row.agrees]
    followed = [replace(row, name=f"{row.name}, with equal roundings") for row in result.followed]
    for row in (*wrong[:SHOWN], *result.outputs, *followed):
        mark = "agrees" if row.agrees else "differs"
        table.add_row(row.name, row.where, f"{row.absolute:.3g}", f"{row.relative:.3g}", f"{row.tolerance:.3g}", mark)
    captions = [f"{name} against the float model: {value:.1f} dB" for name, value in result.sqnr.items()]
    table.caption = "\n".join([*filter(None, [_verdict(result, len(wrong))]), *captions])
    return table


def _verdict(result: Verification, wrong: int) -> str:
    """Return what the comparison showed beyond its rows, in one sentence."""
    if wrong:
        return f"{wrong} of {len(result.inside)} values inside differ given their inputs; the first {SHOWN} are shown, then the outputs"
    if result.inside:
        return (
            f"no single step is wrong (all {len(result.inside)} values inside agree given their inputs), but outputs differ: by noise that "
            "layers carry on, by decisions that are not followed (top-k, argmax, the row split), or in stored tensors that are returned"
        )
    if result.followed:
        return "outputs differ by roundings at the border between two codes, or at the threshold, that float noise turned"
    if not result.agrees:
        return "values inside cannot be compared: the model now gives another graph than the one exported (versions, or its code)"
    return ""
