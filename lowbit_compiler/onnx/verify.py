"""An exported file in ONNX Runtime against the same arithmetic in PyTorch: every output, and on failure the values inside."""

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, fx
from torch.utils import _pytree as pytree
from torch.utils.dlpack import from_dlpack

from lowbit_compiler.errors import ExportError
from lowbit_compiler.onnx.build import INFO, Built, Request
from lowbit_compiler.onnx.labels import MODULE, SOURCE
from lowbit_compiler.onnx.session import session
from lowbit_compiler.recipe import Recipe

TOLERANCE = 1e-3  # of outputs in float32
STEP = 1e-4  # of one step of the graph given its inputs: a sum or an exponential in another order
UNITS = 8  # of roundoff, for outputs in float16 and bfloat16: a different sum rounds differently
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
    """Every output compared, and where one differs every value inside the graph, given its inputs; ``str()`` is a table.

    Quantization turns float noise of 1e-7 into a step of a code now and then, which deep models carry to their outputs. So a file is
    right where every output agrees, or else every value inside, integers exactly, when it is computed from ONNX Runtime's own inputs to it.
    """

    outputs: list[Difference]
    inside: list[Difference]

    @property
    def agrees(self) -> bool:
        """Whether the file computes what PyTorch computes."""
        return all(row.agrees for row in self.outputs) or (bool(self.inside) and all(row.agrees for row in self.inside))

    def __rich__(self) -> Table:
        return _table(self)

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=150)
        console.print(_table(self))
        return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def read_info(path: Path) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe of an exported file, and what else it says of its export."""
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise ExportError(f"{str(path)!r} is not a readable ONNX file: {error}") from error
    props = {entry.key: entry.value for entry in model.metadata_props}
    if INFO not in props:
        raise ExportError(f"{str(path)!r} has no {INFO!r} in its metadata: lowbit did not write it")
    info = json.loads(props[INFO])
    return Recipe(**info["recipe"]), info


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
    got = _run(running, feeds(running, request), names)
    outputs = [difference(name, "", a, b, tolerance) for name, a, b in zip(names, got, tensors, strict=True)]
    result = Verification(outputs, [])
    if not all(row.agrees for row in outputs):
        result.inside = _inside(path, built, request)
    return result


def feeds(running: ort.InferenceSession, request: Request) -> dict[str, Any]:
    """Return the inputs of ``request`` by the names of the session's inputs."""
    leaves = [leaf for leaf in pytree.tree_leaves((request.args, request.kwargs)) if isinstance(leaf, Tensor)]
    return {given.name: to_ort(leaf) for given, leaf in zip(running.get_inputs(), leaves, strict=True)}


def to_ort(tensor: Tensor) -> ort.OrtValue:
    """Return a tensor as ONNX Runtime takes it."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype is torch.bfloat16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(tensor.view(torch.uint16).numpy(), onnx.TensorProto.BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(tensor.numpy())


def _run(running: ort.InferenceSession, inputs: dict[str, Any], names: Sequence[str]) -> list[Tensor]:
    try:
        values = running.run_with_ort_values(list(names), inputs)
    except Exception as error:
        raise ExportError(f"ONNX Runtime {ort.__version__} cannot run the file: {error}") from error
    return [
        from_dlpack(value._get_c_value()) if value.element_type() == onnx.TensorProto.BFLOAT16 else torch.from_numpy(value.numpy())
        for value in values
    ]


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


class _Replay(fx.Interpreter):
    """Runs the PyTorch program on the values that ONNX Runtime computed: each node's result is compared, then theirs takes its place.

    So every difference is of one step, and a code that float noise moved by one further up is not held against what reads it.
    """

    theirs: dict[str, Tensor]
    found: list[tuple[str, Tensor, Tensor]]

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        other = self.theirs.get(n.name)
        if n.op != "call_function" or other is None or not isinstance(result, Tensor):
            return result
        self.found.append((n.name, other, result))
        return other if other.shape == result.shape and other.dtype == result.dtype else result


def _inside(path: Path, built: Built, request: Request) -> list[Difference]:
    """Return the differences of every value that has one name in both, each given its inputs, in the order of the graph."""
    model = onnx.load(str(path))
    places = {
        output: next((entry.value for entry in node.metadata_props if entry.key == MODULE), "") + _suffix(node.metadata_props)
        for node in model.graph.node
        for output in node.output
    }
    finals = [name for name in built.decomposed.graph_signature.user_outputs if isinstance(name, str)]
    known = {node.name for node in built.decomposed.graph.nodes if isinstance(node.meta.get("val"), Tensor)}
    common = [output for node in model.graph.node for output in node.output if output in known]
    outputs = [output.name for output in model.graph.output]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in common if name not in outputs)
    running = _open(model, path)
    replay = _Replay(built.decomposed.graph_module)
    names = [*common, *outputs]
    theirs = dict(zip(names, _run(running, feeds(running, request), names), strict=True))
    # Outputs have names of their own in the file; without them the last step to each would go unseen.
    replay.theirs = {**theirs, **{final: theirs[name] for final, name in zip(finals, outputs, strict=True)}}
    replay.found = []
    with torch.no_grad():
        replay.run(*built.decomposed._graph_module_flat_inputs(request.args, request.kwargs))
    return [
        difference(name, places.get(name, "output"), theirs, ours, STEP if ours.dtype is torch.float32 else None)
        for name, theirs, ours in replay.found
    ]


def _suffix(props: Iterable[Any]) -> str:
    return next((f" ({entry.value})" for entry in props if entry.key == SOURCE), "")


def _open(model: onnx.ModelProto, path: Path) -> ort.InferenceSession:
    """Open a changed copy of the file, beside it, so that external data is found."""
    copy = path.with_name(f".{path.name}.values")
    onnx.save(model, str(copy), save_as_external_data=model.ByteSize() > 2**30, location=copy.name + ".data")
    try:
        return session(copy)
    finally:
        copy.unlink()
        copy.with_name(copy.name + ".data").unlink(missing_ok=True)


def _table(result: Verification) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("value", "module", "largest difference", "relative", "tolerance", ""):
        table.add_column(name, overflow="fold", justify="right" if name in ("largest difference", "relative", "tolerance") else "left")
    wrong = [row for row in result.inside if not row.agrees]
    for row in (*wrong[:SHOWN], *result.outputs):
        mark = "agrees" if row.agrees else "differs"
        table.add_row(row.name, row.where, f"{row.absolute:.3g}", f"{row.relative:.3g}", f"{row.tolerance:.3g}", mark)
    if wrong:
        table.caption = (
            f"{len(wrong)} of {len(result.inside)} values inside differ given their inputs; the first {SHOWN} are shown, then the outputs"
        )
    elif result.inside:
        table.caption = (
            f"all {len(result.inside)} values inside agree given their inputs: outputs differ by codes that float noise moved by one"
        )
    return table
