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
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument

from lowbit_compiler.capture import shapes
from lowbit_compiler.capture.trace import Example, trace, user_outputs
from lowbit_compiler.compile.program import rewrite_program
from lowbit_compiler.errors import ExportError
from lowbit_compiler.exits.onnx import labels, stored, types
from lowbit_compiler.exits.onnx.exit import onnx
from lowbit_compiler.exits.onnx.reader import ANY, Reader
from lowbit_compiler.exits.onnx.translations import table
from lowbit_compiler.exits.onnx.unsupported import explain_failure
from lowbit_compiler.options import Options
from lowbit_compiler.report import Report
from lowbit_compiler.torch_internals import logs, trees
from lowbit_compiler.torch_internals.shapes import any_size_at_one

Progress = Callable[[str], None]
INFO = "lowbit.export"
"""Key in the file's metadata: how it was exported, as JSON."""


@dataclass
class Request(Example):
    """What to export, and how."""

    options: Options
    form: str
    opset: int
    reader: Reader = ANY


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
        program, ranges = trace(request)
        _require_real(program)
        progress("rewriting")
        # All passes run: what one leaves undone has no translation.
        whole = replace(request.options, disable=frozenset(), stop_after=None, max_rewrites=None)
        rewritten, report = rewrite_program(program, request.model, onnx(request.form), whole)
        progress("translating")
        try:
            translated = torch.onnx.export(
                rewritten,
                custom_translation_table=table(request.form, request.opset, request.reader),
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
    report.notes += [str(each) for each in ranges if each.limited]
    progress("simplifying")
    stored.simplify(model, request.reader)
    labels.label_parts(model)
    labels.name_inputs(model, inputs)
    _name(model, program, request)
    model.producer_name, model.producer_version = "lowbit", version("lowbit-compiler")
    model.metadata_props[INFO] = json.dumps(_info(request, translated.exported_program))
    return Built(model, program, rewritten, translated.exported_program, report)


def _require_real(program: ExportedProgram) -> None:
    results = trees.tree_leaves(program.graph.output_node().args)
    for node in (*program.graph.find_nodes(op="placeholder"), *results):
        if isinstance(node, fx.Node) and isinstance(node.meta["val"], Tensor) and node.meta["val"].is_complex():
            raise ExportError(
                f"{node.name!r} is complex, which ONNX Runtime has no operators for: pass and return torch.view_as_real of it"
            )


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
