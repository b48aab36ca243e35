"""Capture from torch.export: its graph, whose products are ATen calls already, with the weights known as constants."""

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from lowbit_compiler.capture.captured import Captured
from lowbit_compiler.capture.names import Names
from lowbit_compiler.capture.products import name_modules, name_products, trace_weights
from lowbit_compiler.errors import WeightFreedError
from lowbit_compiler.passes.graph import aten, bypass, calls, copied, value
from lowbit_compiler.passes.writes import mark_written
from lowbit_compiler.runtime.weights import any_freed

EVERYTHING = 2**63 - 1  # the end of a slice without one
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
    bypass(graph, _is_idle)
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


def _is_idle(node: fx.Node) -> bool:
    """Return whether ``node`` is what a trace writes down although it does nothing: ``x.to(x.dtype)``, which is x itself, or a slice of all
    that there is.

    Whatever the model does with x after such a cast reads the cast, and ``k[:, :, None, :, :]`` is a slice, an unsqueeze and a slice:
    neither a normalization nor repeated heads look like that under torch.compile.
    """
    if node.kwargs:
        return False
    if calls(node, aten.to.dtype):
        return len(node.args) == 2 and value(node.args[0]).dtype is value(node).dtype
    return calls(node, aten.slice.Tensor) and node.args[2:] == (0, EVERYTHING)


def _tensor(program: ExportedProgram, target: str) -> object:
    return program.state_dict.get(target, program.constants.get(target))
