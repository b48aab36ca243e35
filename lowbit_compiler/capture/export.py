"""Capture from torch.export: its graph, whose products are ATen calls already, with the weights known as constants."""

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from lowbit_compiler.capture.captured import Captured
from lowbit_compiler.capture.names import Names
from lowbit_compiler.capture.products import name_modules, name_products, trace_weights
from lowbit_compiler.errors import WeightFreedError
from lowbit_compiler.passes.graph import copied
from lowbit_compiler.passes.writes import mark_written
from lowbit_compiler.runtime.weights import any_freed

STORED = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def capture_export(program: ExportedProgram) -> Captured:
    """Return a copy of the graph of ``program`` in the common dialect; its inputs keep their names and order.

    Raises WeightFreedError where ``free_weights`` has released some of its weights.
    """
    if any_freed(program.state_dict.values()):
        raise WeightFreedError("a float weight was released by free_weights=True, so the model cannot be exported; load it anew")
    graph = fx.Graph()
    for node, new in copied(program.graph.nodes, graph).items():
        new.name = node.name
    copy = fx.GraphModule(program.graph_module, graph)
    parameters = {
        spec.arg.name: spec.target
        for spec in program.graph_signature.input_specs
        if spec.kind in STORED and spec.target is not None and isinstance(_tensor(program, spec.target), torch.Tensor)
    }
    graph.eliminate_dead_code()  # export keeps what a parametrization computes and drops
    name_products(copy)
    for name in mark_written(copy):
        parameters.pop(name, None)
    trace_weights(copy, set(parameters))
    for node in graph.nodes:
        name_modules(node, Names())
    copy.recompile()
    names = {entry.fqn for entry in program.module_call_graph} | set(program.state_dict)
    tables = {spec.arg.name for spec in program.graph_signature.input_specs if spec.kind in STORED and spec.kind is not InputKind.PARAMETER}
    return Captured(copy, parameters, frozenset(names - {""}), tables=frozenset(tables), by="exported")


def _tensor(program: ExportedProgram, target: str) -> object:
    return program.state_dict.get(target, program.constants.get(target))
