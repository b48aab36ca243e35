"""Export a model to a package of AOTInductor, which runs without Python: ``lowbit.export_package``."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from lowbit_compiler.capture.shapes import Inputs
from lowbit_compiler.capture.trace import MESSAGE, example_of, trace
from lowbit_compiler.compile.program import rewrite_program
from lowbit_compiler.errors import ExportError, OptionError
from lowbit_compiler.exits.runtime import runtime
from lowbit_compiler.options import EXPORTED, parse_export, writable_file
from lowbit_compiler.passes.graph import value
from lowbit_compiler.recipes import DEFAULT, WITH_KERNELS, Recipe
from lowbit_compiler.report import Report
from lowbit_compiler.runtime import library
from lowbit_compiler.runtime.files import staged
from lowbit_compiler.torch_internals import dispatch, inductor
from lowbit_compiler.torch_internals.shapes import any_size_at_one

SUFFIX = ".pt2"
ABI = "lowbit_abi"
"""Key in the package's metadata: the library that its packed weights and ops are for."""


def export_package(
    model: nn.Module,
    inputs: Inputs,
    path: str | os.PathLike[str],
    *,
    recipe: str | Recipe = DEFAULT,
    dynamic_shapes: Any = None,
    **options: Any,
) -> Report:
    """Compile ``model`` as ``recipe`` says and write the package ``path``, a ``.pt2``; returns what was done to each product.

    ``inputs`` are example arguments: a tensor, a sequence of positional arguments, or a mapping of keywords. ``dynamic_shapes`` is that of
    torch.export.export, where a dimension may also be a name: ``{"x": {0: "batch"}}``. ``options`` are those of the backend that apply:
    plan, ignore, buffers, llm_int8_threshold, group_size, dump.

    The package holds packed weights and the float ones that are still read. torch._inductor.aoti_load_package loads it in Python, after
    ``import lowbit_compiler.runtime``, and torch::inductor::AOTIModelPackageLoader in C++, on machines with the instruction sets of this
    one (docs/packages.md). It appears whole or not at all; where ``path`` is a link, that stays, and what it points to is written. Raises OptionError for a bad argument and
    WeightFreedError for a model without its float weights before anything is traced, ExportError where the model cannot be traced or
    compiled, or needs an op that the native library does not have.
    """
    parsed = parse_export("a package", recipe, options, (*EXPORTED, "plan"))
    target = writable_file("path", path)
    if target.suffix != SUFFIX:
        raise OptionError(f"path takes a file whose name ends in {SUFFIX}, got {str(path)!r}")
    example = example_of(model, inputs, dynamic_shapes)
    with any_size_at_one(), torch.no_grad():
        program, ranges = trace(example)
        examples = [node.meta["val"] for node in program.graph.find_nodes(op="placeholder")]
        rewritten, report = rewrite_program(program, model, runtime(parsed, examples), parsed)
        _require_kernels(rewritten)
        for stored in (rewritten.state_dict, rewritten.constants):
            stored.update({name: _alone(each) for name, each in stored.items()})
        _write(rewritten, target, type(model).__name__)
    report.notes += [str(each) for each in ranges if each.limited]
    report.notes.append(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
    return report


def _require_kernels(program: ExportedProgram) -> None:
    """Raise ExportError for an op of ours that has nothing but its reference, in Python."""
    for node in program.graph.nodes:
        op = node.target
        if isinstance(op, dispatch.OpOverload) and op.namespace == "lowbit":
            if not dispatch.has_kernel(op, value(node.all_input_nodes[0]).device.type):
                raise ExportError(f"{op.name()} has no kernel without Python; recipes with kernels: {', '.join(WITH_KERNELS)}")


def _alone(stored: Any) -> Any:
    """Return a tensor without the rest of the memory that it is a view of: AOTInductor writes all of it."""
    if not isinstance(stored, Tensor) or stored.untyped_storage().nbytes() == stored.nbytes:
        return stored
    copy = stored.detach().clone()
    return nn.Parameter(copy, requires_grad=False) if isinstance(stored, nn.Parameter) else copy


def _write(program: ExportedProgram, target: Path, name: str) -> None:
    try:
        with staged(target) as file:
            inductor.package(program, file, {ABI: library.ABI.rstrip(b"\0").decode()})
    except Exception as error:
        raise ExportError(f"AOTInductor cannot package {name}: {type(error).__name__}: {str(error).strip()[:MESSAGE]}") from error
