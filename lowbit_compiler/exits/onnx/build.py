"""From a PyTorch model to an ONNX model in memory: capture, the passes up to the waist, the exit, torch's exporter, names."""

import contextlib
import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument

from lowbit_compiler.capture.export import capture_export
from lowbit_compiler.capture.names import Names
from lowbit_compiler.compile.rewrite import through
from lowbit_compiler.errors import ExportError
from lowbit_compiler.exits.onnx import labels, shapes, stored, types
from lowbit_compiler.exits.onnx.exit import onnx
from lowbit_compiler.exits.onnx.program import rebuild
from lowbit_compiler.exits.onnx.translations import table
from lowbit_compiler.exits.onnx.unsupported import explain_failure
from lowbit_compiler.options import Options
from lowbit_compiler.passes.writes import mark_written
from lowbit_compiler.report import Report
from lowbit_compiler.torch_internals import logs, trees
from lowbit_compiler.torch_internals.shapes import any_size_at_one

Progress = Callable[[str], None]
MESSAGE = 2000  # characters of an error of torch.export
INFO = "lowbit.export"
"""Key in the file's metadata: how it was exported, as JSON."""


@dataclass
class Request:
    """What to export, and how."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dynamic_shapes: dict[str, Any]
    """By argument, as shapes.by_argument returns them."""
    options: Options
    form: str
    opset: int


@dataclass
class Built:
    """An ONNX model with the PyTorch program that it must equal, before (``program``) and after torch's decompositions.

    ``traced`` is the model itself as it was traced, in float.
    """

    model: ir.Model
    traced: ExportedProgram
    program: ExportedProgram
    decomposed: ExportedProgram
    report: Report


def build(request: Request, progress: Progress) -> Built:
    """Return the ONNX model of ``request``; raises ExportError with module and op where something cannot be exported."""
    with _quiet(), any_size_at_one(), torch.no_grad():  # also in the decompositions that torch's exporter traces again
        progress("tracing")
        program, ranges = _trace(request)
        progress("rewriting")
        rewritten, report = _rewrite(program, request)
        progress("translating")
        try:
            translated = torch.onnx.export(
                rewritten,
                custom_translation_table=table(request.form, request.opset),
                opset_version=request.opset,
                optimize=False,
                verbose=False,
            )
        except Exception as error:
            raise explain_failure(error, rewritten) from error
    assert translated is not None
    assert translated.exported_program is not None
    model = translated.model
    inputs = [value.name for value in model.graph.inputs]
    labels.label(model)
    types.store(model)
    report.notes += [str(each) for each in ranges if each.least > 1 or each.most is not None]
    progress("simplifying")
    stored.simplify(model)
    labels.label_parts(model)
    labels.name_inputs(model, inputs)
    _name(model, program, request)
    model.producer_name, model.producer_version = "lowbit", version("lowbit-compiler")
    model.metadata_props[INFO] = json.dumps(_info(request, translated.exported_program))
    return Built(model, program, rewritten, translated.exported_program, report)


def _trace(request: Request) -> tuple[ExportedProgram, list[shapes.Traced]]:
    """Return the program of the model, with what it was traced for of the sizes that may change.

    For example sizes of 1, some code cannot be traced, or only as it is for 1: then it is traced for sizes of 2.
    """
    given = shapes.arguments(request.model, request.args, request.kwargs)
    larger = shapes.without_ones(request.args, request.kwargs, given, request.dynamic_shapes)
    failure, found = None, None
    for args, kwargs in [(request.args, request.kwargs), *([larger] if larger is not None else [])]:
        try:
            program = _export(request, args, kwargs)
        except ExportError as error:
            failure = failure or error
            continue
        ranges = shapes.traced(program, given, request.dynamic_shapes)
        found = (program, ranges)
        if not any(each.example == 1 and each.most is not None for each in ranges):
            break
    if found is None:
        assert failure is not None
        raise failure
    _require_exportable(found[0])
    for each in found[1]:
        if each.least == each.most:
            model = type(request.model).__name__
            raise ExportError(f"torch.export traced {model} for {each.least} alone in {each.where}, which may change: leave it out")
    return found


def _export(request: Request, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExportedProgram:
    dynamic = shapes.for_export(request.model, request.dynamic_shapes)
    try:
        return torch.export.export(request.model, args, kwargs, dynamic_shapes=dynamic)
    except Exception as error:
        text = str(error).strip().partition("\n\nFrom user code")[0][:MESSAGE]
        raise ExportError(f"torch.export cannot trace {type(request.model).__name__}: {type(error).__name__}: {text}") from error


def _require_exportable(program: ExportedProgram) -> None:
    """Raise ExportError for what a file cannot hold: state that changes, and outputs that are not tensors."""
    written = mark_written(program.graph_module)
    for given in program.graph_signature.input_specs:
        if given.kind is InputKind.BUFFER and given.arg.name in written:
            raise ExportError(f"buffer {given.target!r} is written to, and an ONNX file keeps no state: pass it in, and return it")
    for name, result in zip(shapes.output_names(program), user_outputs(program), strict=True):
        if not isinstance(result, TensorArgument) and getattr(result, "value", result) is not None:
            raise ExportError(f"output {name!r} is a number, and an ONNX file returns tensors: return a tensor, or leave it out")
    results = trees.tree_leaves(program.graph.output_node().args)
    for node in (*program.graph.find_nodes(op="placeholder"), *results):
        if isinstance(node, fx.Node) and isinstance(node.meta["val"], Tensor) and node.meta["val"].is_complex():
            raise ExportError(
                f"{node.name!r} is complex, which ONNX Runtime has no operators for: pass and return torch.view_as_real of it"
            )


def user_outputs(program: ExportedProgram) -> list[Any]:
    """Return what the signature says of each value that the model returns."""
    return [spec.arg for spec in program.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]


def _rewrite(program: ExportedProgram, request: Request) -> tuple[ExportedProgram, Report]:
    names = Names()
    names.add(request.model)
    captured = capture_export(program)
    captured = replace(captured, known_names=captured.known_names | names.known, other_names=names.others)
    # All passes run: what one leaves undone has no translation.
    whole = replace(request.options, disable=frozenset(), stop_after=None, max_rewrites=None)
    ctx, report = through(onnx(request.form), captured, whole)
    return rebuild(program, captured, ctx.constants), report


def _name(model: ir.Model, program: ExportedProgram, request: Request) -> None:
    labels.name_constants(model)
    names = zip(shapes.output_names(program), user_outputs(program), strict=True)
    labels.name_outputs(model, [name for name, result in names if isinstance(result, TensorArgument)])
    given = [spec for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    tensors = [position for position, spec in enumerate(given) if isinstance(spec.arg, TensorArgument)]
    dimensions = shapes.dimension_names(shapes.arguments(request.model, request.args, request.kwargs), request.dynamic_shapes)
    if len(dimensions) == len(given):
        labels.rename_symbols(model, labels.name_dimensions(model, dimensions, tensors))


def _info(request: Request, program: ExportedProgram) -> dict[str, Any]:
    nodes = "\n".join(f"{node.name} {node.target}" for node in program.graph.nodes)
    return {
        "graph": hashlib.sha256(nodes.encode()).hexdigest()[:16],
        "recipe": asdict(request.options.recipe),
        "ignore": list(request.options.ignore),
        "buffers": request.options.buffers,
        "form": request.form,
        "constants": shapes.constants(request.model, request.args, request.kwargs),
        "opset": request.opset,
        "torch": torch.__version__,
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch's exporter says of its own insides (a missing torchvision, a deprecated spelling) from users."""
    level = logs.exporter.level
    logs.exporter.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            yield
        finally:
            logs.exporter.setLevel(level)
