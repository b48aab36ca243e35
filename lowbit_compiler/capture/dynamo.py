"""Capture from torch.compile: Dynamo's graph, with the operations of interest renamed to ATen in place."""

import operator
from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx, nn

from lowbit_compiler.capture.captured import Captured
from lowbit_compiler.capture.names import Names, spelled
from lowbit_compiler.capture.products import name_modules, name_products, trace_weights
from lowbit_compiler.capture.running import find_names
from lowbit_compiler.passes.graph import bypass, calls, copied, is_tensor
from lowbit_compiler.passes.notes import note, notes
from lowbit_compiler.passes.writes import mark_written
from lowbit_compiler.torch_internals.sources import is_static, source_text, variable


def _parameter_name(node: fx.Node, example: Any, names: Names) -> str | None:
    if not isinstance(example, Tensor) or not (_is_parameter(node, example) or is_static(node)):
        return None
    source = source_text(node)
    return names.tensor(example) or (node.name if source is None else spelled(source) or variable(source))


def _is_parameter(node: fx.Node, example: Any) -> bool:
    return isinstance(example, nn.Parameter) or notes(node).parameter


def _is_idle(node: fx.Node) -> bool:
    """Return whether ``node`` is a slice of all that there is: ``hidden[:, slice(0, None), :]`` would keep a model's last norm out of its head."""
    if not calls(node, operator.getitem) or not is_tensor(node.args[0]) or node.args[0].op == "placeholder":  # type: ignore[union-attr]
        return False  # an input itself is another object than a view of it
    parts = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    return all(
        isinstance(part, slice) and (part.start in (None, 0), part.stop, part.step in (None, 1)) == (True, None, True) for part in parts
    )


def capture_dynamo(gm: fx.GraphModule, examples: Sequence[Any]) -> Captured:
    """Return a copy of Dynamo's graph ``gm`` in the common dialect; ``examples`` are its inputs, one per placeholder."""
    graph = fx.Graph()
    parameters: dict[str, str] = {}
    tables: set[str] = set()
    names = find_names()
    values = iter(examples)
    for node, new in copied(gm.graph.nodes, graph).items():
        if node.op == "placeholder":
            example = next(values)
            new.meta["val"] = node.meta.get("example_value", example)
            new.meta.pop("grapharg", None)  # refers weakly to the parameter, which torch.utils.swap_tensors refuses
            if id(example) in names.gathered:
                note(new, gathered=True)
            elif name := _parameter_name(node, example, names):
                parameters[new.name] = name
                if not _is_parameter(node, example):
                    tables.add(new.name)
        elif "example_value" in node.meta:
            new.meta["val"] = node.meta["example_value"]
    # A fresh module: Dynamo's own carries a table of sources, which AOTAutograd wants complete for every input.
    copy = fx.GraphModule(gm, graph)
    bypass(graph, _is_idle)
    name_products(copy)
    for name in mark_written(copy):
        parameters.pop(name, None)
    trace_weights(copy, set(parameters))
    for node in copy.graph.nodes:
        name_modules(node, names)
    copy.recompile()
    return Captured(
        copy,
        parameters,
        known_names=names.known,
        other_names=names.others,
        all_known=names.whole,
        tables=frozenset(tables),
        here=names.here,
        places=names.places,
    )
