"""Export a model to an engine of TensorRT: ``lowbit.export_tensorrt``."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from lowbit_compiler.capture.limits import Limits, limits, unlimited
from lowbit_compiler.capture.shapes import Inputs, arguments
from lowbit_compiler.errors import ExportError, OptionError
from lowbit_compiler.exits.onnx.export import export, request_of
from lowbit_compiler.exits.tensorrt import engine
from lowbit_compiler.exits.tensorrt.reader import OPSET, READER, require_taken
from lowbit_compiler.options import writable_file
from lowbit_compiler.recipes import DEFAULT, Recipe
from lowbit_compiler.report import Report
from lowbit_compiler.runtime.files import staged

RUNTIMES = ("rtx",)


def export_tensorrt(
    model: nn.Module,
    inputs: Inputs,
    path: str | os.PathLike[str],
    *,
    recipe: str | Recipe = DEFAULT,
    runtime: str = "rtx",
    capabilities: Sequence[str] = ("8.9",),
    dynamic_shapes: Any = None,
    progress: engine.Progress | None = None,
    **options: Any,
) -> Report:
    """Build ``model`` into the engine ``path`` of TensorRT-RTX as ``recipe`` says; returns what was done to each product.

    ``inputs`` are example arguments: a tensor, a sequence of positional arguments, or a mapping of keywords. ``dynamic_shapes`` is that of
    torch.export.export, with a largest size for each that may change: ``{"x": {0: torch.export.Dim("batch", max=8)}}``; kernels are chosen
    for the sizes of the example. ``runtime`` is "rtx"; ``capabilities`` are the compute capabilities of the devices that the engine is for,
    as strings. ``options`` are those of the backend that apply: ignore, buffers, llm_int8_threshold, group_size, dump. ``progress`` is
    called with the name of each stage.

    It goes through the QDQ form of :func:`export_onnx`, in a folder that goes again: weights are integers of 8 or 4 bits (of e2m1, for
    devices that have it) before DequantizeLinear. Neither GPU nor driver is needed, and nothing is run: no value is compared. The engine
    appears whole or not at all; where ``path`` is a link, that stays, and what it points to is written. Raises OptionError for a bad argument
    and for a recipe that TensorRT cannot take, and WeightFreedError for a model without its float weights, before anything is traced;
    ExportError where the model cannot be exported, parsed or built.
    """
    devices = _devices(runtime, capabilities)
    request = request_of(model, inputs, recipe, dynamic_shapes, OPSET, "qdq", options)
    require_taken(request.options.recipe, devices)
    sizes = limits(arguments(model, request.args, request.kwargs), request.dynamic_shapes)
    request = replace(request, reader=READER, dynamic_shapes=unlimited(request.dynamic_shapes))
    target = writable_file("path", path)
    say = progress or (lambda stage: None)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        file = Path(folder) / "model.onnx"
        built = export(request, file, False, say)
        names = [value.name for value in built.model.graph.inputs]
        shapes = {str(name): _profile(each) for name, each in zip(names, sizes, strict=True) if each.dynamic}
        made = engine.build(file, devices, shapes, say)
        say("writing")
        _write(made, target)
    report = built.report
    report.notes = [note for note in report.notes if str(file) not in note]
    report.notes.append(
        f"{target}: {made.nbytes / 1e6:.1f} MB, TensorRT-RTX {engine.VERSION}, compute capability {', '.join(capabilities)}; not run here"
    )
    return report


def _devices(runtime: str, capabilities: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Return the devices that are asked for; raises OptionError for what is none."""
    if runtime not in RUNTIMES:
        raise OptionError(f"runtime takes {RUNTIMES[0]!r} (TensorRT-RTX), got {runtime!r}")
    if isinstance(capabilities, str) or not isinstance(capabilities, Sequence) or not capabilities:
        raise OptionError(f"capabilities takes a list of compute capabilities such as ('8.9',), got {capabilities!r}")
    return tuple(dict.fromkeys(map(engine.capability, capabilities)))


def _profile(sizes: Limits) -> engine.Shapes:
    return sizes.least, sizes.example, sizes.most


def _write(made: memoryview, target: Path) -> None:
    try:
        with staged(target) as beside:
            beside.write_bytes(made)
    except OSError as error:
        raise ExportError(f"cannot write {str(target)!r}: {error}") from error
