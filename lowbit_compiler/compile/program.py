"""An exported program rewritten into another one, which torch's ONNX exporter and AOTInductor take."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputSpec,
    TensorArgument,
)

from lowbit_compiler.capture.captured import Captured
from lowbit_compiler.capture.export import capture_export
from lowbit_compiler.capture.names import Names
from lowbit_compiler.compile.constants import text_of
from lowbit_compiler.compile.prepared import choose
from lowbit_compiler.compile.prepared import notes as prepared_notes
from lowbit_compiler.compile.rewrite import through
from lowbit_compiler.exits.exit import Exit
from lowbit_compiler.options import Options
from lowbit_compiler.passes.contract import Constant
from lowbit_compiler.passes.find import module_path
from lowbit_compiler.passes.fold import BIAS
from lowbit_compiler.passes.notes import notes
from lowbit_compiler.report import Report
from lowbit_compiler.runtime.prepared import known

PROVENANCE = "lowbit"
"""Key in ``node.meta["custom"]``, which torch keeps through decompositions: pass and modules of a node that lowbit made."""


def rewrite_program(program: ExportedProgram, model: nn.Module, exit: Exit, options: Options) -> tuple[ExportedProgram, Report]:
    """Return ``program``, which was traced from ``model``, rewritten up to ``exit``, and the report."""
    names = Names()
    names.add(model)
    captured = capture_export(program)
    captured = replace(captured, known_names=captured.known_names | names.known, other_names=names.others)
    ctx, report = through(exit, captured, options)
    rebuilt, added = _rebuild(program, captured, ctx.constants)
    report.notes += added
    return rebuilt, report


def _rebuild(program: ExportedProgram, captured: Captured, constants: Sequence[Constant]) -> tuple[ExportedProgram, list[str]]:
    """Return a program of the graph ``captured.gm``, rewritten from that of ``program``, and notes; weights that it no longer reads are left out.

    Every constant becomes a stored tensor, named after the module that reads it; equal constants of the same weights become one.
    """
    gm = captured.gm
    stored: dict[str, Tensor] = {}
    targets: dict[str, str] = {}
    first_of: dict[Any, tuple[str, ...]] = {}
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    nodes = {node.name: node for node in gm.graph.nodes if node.op == "placeholder"}
    prepared, choices = known(), []
    for constant in constants:
        key = (text_of(constant.graph), constant.sources)
        if key in first_of:
            for name, first in zip(constant.outputs, first_of[key], strict=True):
                nodes[name].replace_all_uses_with(nodes[first])
                gm.graph.erase_node(nodes.pop(name))
            continue
        first_of[key] = constant.outputs
        sources = [_value(program, specs[source].target).detach() for source in constant.sources]
        choices.append(choice := choose(constant, sources, prepared))
        with torch.no_grad():
            values = choice.compute(*sources)
        for name, part, tensor in zip(constant.outputs, constant.parts, values, strict=True):
            targets[name] = _unique(_target(nodes[name], part), {*program.state_dict, *program.constants, *stored})
            stored[targets[name]] = tensor
    _order(gm, [nodes[name] for name in targets])
    for node in gm.graph.nodes:
        _keep_provenance(node)
    gm.graph.lint()
    gm.recompile()
    inputs = [
        InputSpec(InputKind.BUFFER, TensorArgument(name=node.name), targets[node.name], persistent=True)
        if node.name in targets
        else specs[node.name]
        for node in gm.graph.nodes
        if node.op == "placeholder"
    ]
    return _program(program, gm, inputs, stored), prepared_notes(choices)


def _program(program: ExportedProgram, gm: fx.GraphModule, inputs: list[InputSpec], stored: dict[str, Tensor]) -> ExportedProgram:
    """Return ``program`` with the graph ``gm`` of these ``inputs``, and with the tensors ``stored``."""
    read = {spec.target for spec in inputs}
    return ExportedProgram(
        root=gm,
        graph=gm.graph,
        graph_signature=ExportGraphSignature(inputs, _outputs(program, gm)),
        state_dict={**{name: tensor for name, tensor in program.state_dict.items() if name in read}, **stored},
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants={name: value for name, value in program.constants.items() if name in read or not isinstance(value, Tensor)},
        verifiers=program.verifiers,  # those of the dialect before decompositions, which may write in place
    )


def _value(program: ExportedProgram, target: Any) -> Tensor:
    tensor: Tensor = program.state_dict[target] if target in program.state_dict else program.constants[target]
    return tensor


def _target(node: fx.Node, part: str) -> str:
    """Return a name for the constant ``node``: the modules that read it, and what ``part`` of a weight it is."""
    readers = [notes(user).modules for user in node.users if notes(user).modules]
    modules = readers[0].split(", ") if readers else ["constant"]
    joined = modules[0] + "".join(f"+{module.rpartition('.')[2]}" for module in modules[1:])
    return f"{joined}.bias" if part == BIAS else f"{joined}.weight_{part}"


def _unique(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number, free = number + 1, f"{name}_{number + 1}"
    return free


def _order(gm: fx.GraphModule, constants: Sequence[fx.Node]) -> None:
    """Put the constants before the first input: an exported program lists stored tensors first."""
    first = next((node for node in gm.graph.nodes if node.op == "placeholder" and node not in constants), None)
    for node in constants:
        if first is not None:
            first.prepend(node)


def _keep_provenance(node: fx.Node) -> None:
    if node.op == "call_function" and notes(node).made_by:
        modules = notes(node).modules or module_path(node)
        node.meta["custom"] = {**node.meta.get("custom", {}), PROVENANCE: {"pass": notes(node).made_by, "modules": modules}}


def _outputs(program: ExportedProgram, gm: fx.GraphModule) -> list[OutputSpec]:
    """Return the output specs with the names that the outputs have now."""
    results: Any = gm.graph.output_node().args[0]
    specs = []
    for spec, result in zip(program.graph_signature.output_specs, results, strict=True):
        argument = type(spec.arg)(name=result.name) if isinstance(spec.arg, TensorArgument) and isinstance(result, fx.Node) else spec.arg
        specs.append(OutputSpec(spec.kind, argument, spec.target))
    return specs
