"""Export a model to ONNX in low precision: ``lowbit.export_onnx``."""

import math
import os
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from lowbit_compiler.capture.shapes import Inputs, arguments, constants
from lowbit_compiler.capture.trace import example_of
from lowbit_compiler.errors import ExportError, OptionError
from lowbit_compiler.exits.onnx import verify as verifying
from lowbit_compiler.exits.onnx.build import Built, Progress, Request, build
from lowbit_compiler.exits.onnx.origin import read
from lowbit_compiler.exits.onnx.stored import Staged
from lowbit_compiler.options import parse_export, writable_file
from lowbit_compiler.recipes import DEFAULT, Recipe
from lowbit_compiler.report import Report
from lowbit_compiler.torch_internals import trees

FORMS = ("integer", "qdq")
OPSETS = range(21, 26)
LACKING = "for which ONNX Runtime's CPU provider lacks most operators"


def export_onnx(
    model: nn.Module,
    inputs: Inputs,
    path: str | os.PathLike[str],
    *,
    recipe: str | Recipe = DEFAULT,
    dynamic_shapes: Any = None,
    opset: int = 21,
    form: str = "integer",
    verify: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Write ``model`` to the ONNX file ``path`` as ``recipe`` says; returns what was done to each product.

    ``inputs`` are example arguments: a tensor, a sequence of positional arguments, or a mapping of keywords. ``dynamic_shapes`` is that of
    torch.export.export, where a dimension may also be a name: ``{"x": {0: "batch"}}``. ``form`` is "integer" (scales written out, exact
    integer products) or "qdq" (QuantizeLinear and DequantizeLinear around float products); ``opset`` is 21 to 25. ``options`` are
    those of the backend that apply: ignore, buffers, llm_int8_threshold, group_size, dump. ``verify`` runs the file on ``inputs``,
    and on others made from them (docs/onnx.md), and compares it with PyTorch. ``progress`` is called with the name of each stage.

    Weights are stored in the bits of their format where ONNX has a type for it (docs/onnx.md), above 1.5 GiB in ``path.<hash>.data``. Nothing is written under ``path`` unless all
    of it passed the checker of onnx (and ``verify``); where it is a link, that stays, and what it points to is written. Raises OptionError
    for a bad argument and WeightFreedError for a model without its float weights before anything is traced, ExportError where the model
    cannot be exported or verified.
    """
    request = request_of(model, inputs, recipe, dynamic_shapes, opset, form, options)
    if verify:
        require_runnable(request)
    return export(request, writable_file("path", path), verify, progress or (lambda stage: None)).report


def export(request: Request, target: Path, verify: bool, progress: Progress) -> Built:
    """Write what ``request`` asks for to ``target``, whole or not at all; returns it as it is in memory."""
    built = build(request, progress)
    progress("writing")
    with Staged(built.model, target) as staged:
        _check(staged)
        if verify:
            progress("verifying")
            verifying.check(staged.path, built, request, progress)
        size = staged.publish()
    built.report.notes += _notes(request, target, size)
    return built


def verify_onnx(
    path: str | os.PathLike[str],
    model: nn.Module,
    inputs: Inputs,
    *,
    tolerance: float | None = None,
    progress: Progress | None = None,
) -> "verifying.Verification":
    """Run the file ``path`` in ONNX Runtime on ``inputs``, and compare every output with the same arithmetic in PyTorch.

    ``model`` is what the file was exported from; recipe, form and which sizes may change are read from the file. An output agrees where
    its largest difference is at most ``tolerance`` times the largest value of its row or column (default: 1e-3 in float32, eight units of
    the dtype in float16); integers must be equal, and its shape what the file declares. Where one does not, all are compared again with
    equal roundings, and must agree. Then so is it on other inputs, drawn from these with one seed and of other sizes where they may
    change (docs/onnx.md): there the traced program must also compute what the model does, so that nothing of an example is a constant.

    Raises ExportError for a file that lowbit did not write, OptionError for inputs that do not fit it and for a tolerance that is no
    finite number from 0 on, WeightFreedError for a model without its float weights.
    """
    if tolerance is not None and not (isinstance(tolerance, (int, float)) and 0 <= tolerance < math.inf):
        raise OptionError(f"tolerance takes a number that is finite and not negative, got {tolerance!r}")
    file = read(Path(path))
    request = request_of(model, inputs, file.recipe, None, file.opset, file.form, file.options)
    require_runnable(request)
    request.dynamic_shapes = file.shapes(arguments(model, request.args, request.kwargs))
    file.require_constants(constants(model, request.args, request.kwargs))
    progress = progress or (lambda stage: None)
    return verifying.verify(Path(path), build(request, progress), request, tolerance, progress)


def request_of(
    model: nn.Module, inputs: Inputs, recipe: str | Recipe, dynamic: Any, opset: int, form: str, options: dict[str, Any]
) -> Request:
    """Check the arguments of an export, and return them as one; raises OptionError."""
    parsed = parse_export("an ONNX export", recipe, options)
    if form not in FORMS:
        raise OptionError(f"form takes {FORMS[0]!r} or {FORMS[1]!r}, got {form!r}")
    if not isinstance(opset, int) or isinstance(opset, bool) or opset not in OPSETS:
        raise OptionError(
            f"opset takes {OPSETS.start} to {OPSETS.stop - 1}, got {opset!r}: int4 and blocked scales exist from opset {OPSETS.start} on"
        )
    return Request(**vars(example_of(model, inputs, dynamic)), options=parsed, form=form, opset=opset)


def require_runnable(request: Request) -> None:
    """Raise OptionError where ONNX Runtime cannot run what would be exported."""
    if _bfloat16(request):
        raise OptionError(f"the model has bfloat16 tensors, {LACKING}; verify an export of model.float()")


def _bfloat16(request: Request) -> bool:
    leaves = [*trees.tree_leaves((request.args, request.kwargs)), *request.model.parameters(), *request.model.buffers()]
    return any(isinstance(leaf, Tensor) and leaf.dtype is torch.bfloat16 for leaf in leaves)


def _check(staged: Staged) -> None:
    try:
        staged.check()
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph does not pass the checker of onnx {onnx.__version__}: {error}") from error


def _notes(request: Request, target: Path, size: int) -> list[str]:
    notes = [f"{target}: {size / 1e6:.1f} MB, opset {request.opset}, form {request.form!r}"]
    if _bfloat16(request):
        notes.append(f"the model has bfloat16 tensors, {LACKING}; to run it there export model.float()")
    return notes
