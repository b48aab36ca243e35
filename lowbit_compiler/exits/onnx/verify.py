"""An exported file in ONNX Runtime against the same arithmetic in PyTorch: every output, and on failure the values inside."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.export.graph_signature import TensorArgument

from lowbit_compiler.capture.shapes import apart, output_names
from lowbit_compiler.capture.trace import user_outputs
from lowbit_compiler.compile.verify import sqnr
from lowbit_compiler.errors import ExportError
from lowbit_compiler.exits.onnx.build import INFO, Built, Progress, Request
from lowbit_compiler.exits.onnx.origin import read
from lowbit_compiler.exits.onnx.replay import NOISE, Inside, feeds, run
from lowbit_compiler.exits.onnx.session import session
from lowbit_compiler.exits.onnx.varied import varied
from lowbit_compiler.torch_internals import trees

TOLERANCE = 1e-3  # of outputs in float32
UNITS = 8  # of roundoff, for outputs in float16: a different sum rounds differently
SPREAD = 2.0**-11
"""The least that an element is compared with, against the largest of its tensor: with TOLERANCE, four units of float32."""
TRACED = 10
"""Times the tolerance of outputs: how far the traced float program may be from the model, which may choose other kernels than its trace."""
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

    What the trace or the file took from the example as a constant shows on other inputs alone: ``other`` is the same on these (``note``
    says which), with ``traced``, the traced float program against the model itself.
    """

    outputs: list[Difference]
    followed: list[Difference] = field(default_factory=list)
    inside: list[Difference] = field(default_factory=list)
    sqnr: dict[str, float] = field(default_factory=dict)
    """dB of each output in floating point against what the model itself returns: what low precision costs on these inputs."""
    traced: list[Difference] = field(default_factory=list)
    other: "Verification | None" = None
    note: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the file computes what PyTorch computes, and the traced program what the model does."""
        here = (_all_agree(self.outputs) or _all_agree(self.followed)) and all(row.agrees for row in self.traced)
        return here and (self.other is None or self.other.agrees)

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
    result = verify(path, built, request, None, progress)
    if not result.agrees:
        raise ExportError(f"the exported file does not compute what PyTorch does\n{result}")


def verify(path: Path, built: Built, request: Request, tolerance: float | None, progress: Progress) -> Verification:
    """Compare the file at ``path`` with PyTorch on the inputs of ``request``; where it agrees, on others made from them too."""
    result = compare(path, built, request, tolerance, progress)
    result.traced = _traced(built, request, _outputs(request.model, request))  # the trace may be of sizes of 2
    if not result.agrees:
        return result
    progress("running the model on other inputs")
    other, own, result.note = _other(path, built, request)
    if other is not None:
        traced = _traced(built, other, own)
        same = all(row.agrees for row in traced)
        result.other = compare(path, built, other, tolerance, progress) if same else Verification([])
        result.other.traced = traced
    return result


def _other(path: Path, built: Built, request: Request) -> tuple[Request | None, list[Tensor], str]:
    """Return other inputs that the model takes, what it returns for them, and what they are in words; None where it takes none."""
    why = "all of them are the same"
    names = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in read(path).inputs]
    for sizes in (names, None):
        other = varied(request, built.traced, sizes)
        given, drawn = (_tensors((each.args, each.kwargs)) for each in (request, other))
        if all(torch.equal(a, b) for a, b in zip(given, drawn, strict=True)):
            continue
        try:
            return other, _outputs(request.model, other), "other inputs: " + ", ".join(str(tuple(x.shape)) for x in drawn)
        except Exception as error:
            why = f"the model refuses them: {_first_line(error)}"
    return None, [], f"only the inputs given were tried, no others made from them ({why}): verify with others of your own"


def _traced(built: Built, request: Request, own: list[Tensor]) -> list[Difference]:
    """Compare the traced float program with what the model itself returns."""
    try:
        got = _outputs(built.traced.module(check_guards=False), request)
    except Exception as error:
        raise ExportError(
            "the traced program cannot run on other inputs, which the model takes: something of the example is a constant in it: "
            f"{_first_line(error)}"
        ) from error
    names = zip(output_names(built.traced), user_outputs(built.traced), strict=True)
    pairs = zip([name for name, result in names if isinstance(result, TensorArgument)], got, own, strict=True)
    rows = [difference(f"{name}, traced", "", a, b) for name, a, b in pairs]
    return [replace(row, tolerance=TRACED * row.tolerance) for row in rows]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


def _outputs(run: Callable[..., Any], request: Request) -> list[Tensor]:
    """Return the tensors that ``run`` returns for inputs of its own: a model may write to them, or to a cache."""
    args, kwargs = apart((request.args, request.kwargs))
    with torch.no_grad():
        return _tensors(run(*args, **kwargs))


def _tensors(values: Any) -> list[Tensor]:
    return [value.detach() for value in trees.tree_leaves(values) if isinstance(value, Tensor)]


def compare(
    path: Path, built: Built, request: Request, tolerance: float | None = None, progress: Progress = lambda stage: None
) -> Verification:
    """Compare the outputs of the file at ``path`` with those of ``built``, on the inputs of ``request``."""
    progress("running PyTorch")
    tensors = _outputs(built.program.module(check_guards=False), request)
    originals = _outputs(request.model, request)
    progress("running ONNX Runtime")
    try:
        running = session(path)
    except Exception as error:
        raise ExportError(f"ONNX Runtime {ort.__version__} cannot load {str(path)!r}: {error}") from error
    names = [output.name for output in running.get_outputs()]
    given = feeds(running, request)
    got = run(running, given, names)
    result = Verification([difference(name, "", a, b, tolerance) for name, a, b in zip(names, got, tensors, strict=True)])
    if wrong := misdeclared(running, given, got):
        result.outputs += wrong
        return result
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


def misdeclared(running: ort.InferenceSession, given: dict[str, Any], got: list[Tensor]) -> list[Difference]:
    """Return a row for each output whose shape is not what the file declares: a number, or the size that an input has under that name."""
    sizes = {dim: size for value in running.get_inputs() for dim, size in zip(value.shape, given[value.name].shape, strict=True)}
    rows = []
    for output, value in zip(running.get_outputs(), got, strict=True):
        fits = len(output.shape) == value.dim() and all(
            sizes.get(dim, size) == size if isinstance(dim, str) else dim == size
            for dim, size in zip(output.shape, value.shape, strict=True)
        )
        if not fits:
            what = f"{output.name}: declared ({', '.join(map(str, output.shape))}), is {tuple(value.shape)}"
            rows.append(Difference(what, "", np.inf, np.inf, 0.0))
    return rows


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
    captions = []
    for part, where in ((result, ""), (result.other, ", other inputs")):
        if part is not None:
            wrong = [row for row in part.inside if not row.agrees]
            followed = [replace(row, name=f"{row.name}, with equal roundings") for row in part.followed]
            for row in (*wrong[:SHOWN], *part.traced, *part.outputs, *followed):
                mark = "agrees" if row.agrees else "differs"
                table.add_row(row.name + where, row.where, f"{row.absolute:.3g}", f"{row.relative:.3g}", f"{row.tolerance:.3g}", mark)
            captions.append(_verdict(part, len(wrong)))
    captions += [result.note, *(f"{name} against the float model: {value:.1f} dB" for name, value in result.sqnr.items())]
    table.caption = "\n".join(filter(None, captions))
    return table


def _verdict(result: Verification, wrong: int) -> str:
    """Return what the comparison showed beyond its rows, in one sentence."""
    if not all(row.agrees for row in result.traced):
        return "the traced program does not compute what the model does: something of the example is a constant in it"
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
