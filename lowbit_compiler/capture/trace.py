"""A model with example inputs, traced by torch.export: what every export to a file starts from."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument

from lowbit_compiler.capture import shapes
from lowbit_compiler.errors import ExportError, OptionError, WeightFreedError
from lowbit_compiler.passes.writes import mark_written
from lowbit_compiler.runtime.weights import any_freed

MESSAGE = 2000  # characters of an error of torch


@dataclass
class Example:
    """A model, and the arguments to trace it with."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dynamic_shapes: dict[str, Any]
    """By argument, as shapes.by_argument returns them."""


def example_of(model: nn.Module, inputs: shapes.Inputs, dynamic_shapes: Any) -> Example:
    """Check what is to be exported, and return it as one; raises OptionError, and WeightFreedError for a model without its float weights."""
    if not isinstance(model, nn.Module):
        raise OptionError(f"model takes a torch.nn.Module, got {type(model).__name__}")
    if training := next((name or type(module).__name__ for name, module in model.named_modules() if module.training), None):
        raise OptionError(f"module {training!r} is in training mode; call model.eval() before the export")
    if any_freed([*model.parameters(), *model.buffers()]):
        raise WeightFreedError("free_weights=True released float weights of the model, which an export reads; load the model anew")
    args, kwargs = shapes.split_inputs(model, inputs)
    given = shapes.arguments(model, args, kwargs)
    shapes.require_rows(given)
    return Example(model, args, kwargs, shapes.by_argument(given, dynamic_shapes))


def trace(example: Example) -> tuple[ExportedProgram, list[shapes.Traced]]:
    """Return the program of the model, with what it was traced for of the sizes that may change.

    For example sizes of 1, some code cannot be traced, or only as it is for 1: then it is traced for sizes of 2. Raises ExportError
    where torch.export cannot trace the model, and for what a file cannot hold.
    """
    given = shapes.arguments(example.model, example.args, example.kwargs)
    larger = shapes.without_ones(example.args, example.kwargs, given, example.dynamic_shapes)
    failure, found = None, None
    for args, kwargs in [(example.args, example.kwargs), *([larger] if larger is not None else [])]:
        try:
            program = _export(example, args, kwargs)
        except ExportError as error:
            failure = failure or error
            continue
        ranges = shapes.traced(program, given, example.dynamic_shapes)
        found = (program, ranges)
        if not any(each.example == 1 and each.most is not None for each in ranges):
            break
    if found is None:
        assert failure is not None
        raise failure
    _require_storable(found[0])
    for each in found[1]:
        if each.least == each.most:
            model = type(example.model).__name__
            raise ExportError(f"torch.export traced {model} for {each.least} alone in {each.where}, which may change: leave it out")
    return found


def _export(example: Example, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExportedProgram:
    dynamic = shapes.for_export(example.model, example.dynamic_shapes)
    try:
        return torch.export.export(example.model, args, kwargs, dynamic_shapes=dynamic)
    except Exception as error:
        text = str(error).strip().partition("\n\nFrom user code")[0][:MESSAGE]
        raise ExportError(f"torch.export cannot trace {type(example.model).__name__}: {type(error).__name__}: {text}") from error


def _require_storable(program: ExportedProgram) -> None:
    """Raise ExportError for what a file cannot hold: state that changes, and outputs that are not tensors."""
    written = mark_written(program.graph_module)
    for given in program.graph_signature.input_specs:
        if given.kind is InputKind.BUFFER and given.arg.name in written:
            raise ExportError(f"buffer {given.target!r} is written to, and a file keeps no state: pass it in, and return it")
    for name, result in zip(shapes.output_names(program), user_outputs(program), strict=True):
        if not isinstance(result, TensorArgument) and getattr(result, "value", result) is not None:
            raise ExportError(f"output {name!r} is a number, and a file returns tensors: return a tensor, or leave it out")


def user_outputs(program: ExportedProgram) -> list[Any]:
    """Return what the signature says of each value that the model returns."""
    return [spec.arg for spec in program.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
