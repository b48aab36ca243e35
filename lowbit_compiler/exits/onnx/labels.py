"""Names and provenance in the file: a rewritten node says which pass made it and which modules of the model it computes."""

import itertools
import re
from collections import Counter
from typing import Any

import onnx_ir as ir

from lowbit_compiler.compile.program import PROVENANCE
from lowbit_compiler.passes.find import module_path

PASS, MODULE, SOURCE = "lowbit.pass", "lowbit.module", "lowbit.op"
KEPT = ("pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy", "namespace")
"""What torch's exporter says of a node that readers and people use; its stack traces name files of the machine that exported."""

INNER = ".inner"
"""Ends the name of a value inside whose own is that of an output."""
WORD = re.compile(r"[A-Za-z_]\w*")


def label(model: ir.Model) -> None:
    """Name every node of a freshly translated ``model`` after its module, and mark the rewritten ones.

    Names are ``<modules>/<op of the graph>/<operator>``, made unique by a number.
    """
    taken: Counter[str] = Counter()
    values: Counter[str] = Counter()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        source = node.meta.get("node")
        for key in [key for key in node.metadata_props if key.startswith("pkg.torch.onnx") and key not in KEPT]:
            del node.metadata_props[key]
        if source is None:
            continue
        made = (source.meta.get("custom") or {}).get(PROVENANCE)
        modules = made["modules"] if made else module_path(source)
        op = _op(source)
        if made:
            node.metadata_props.update({PASS: made["pass"], MODULE: modules, SOURCE: op})
        name = "/".join(part for part in (modules.replace(", ", "+"), op, node.op_type) if part)
        node.name = _numbered(name, taken)
        for value in node.outputs:
            if value.name and value.name.startswith("val_"):
                value.name = _numbered(f"{source.name}.{node.op_type}", values)


def label_parts(model: ir.Model) -> None:
    """Mark the Split of merged products as what it splits: simplifying makes it, from nodes that were marked."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        source = node.inputs[0].producer() if node.op_type == "Split" and node.inputs[0] is not None else None
        if source is not None and MODULE in source.metadata_props and MODULE not in node.metadata_props:
            node.metadata_props.update({key: source.metadata_props[key] for key in (PASS, MODULE, SOURCE)})
            node.name = f"{(source.name or '').rpartition('/')[0]}/Split"


def _op(source: Any) -> str:
    name = getattr(getattr(source.target, "_schema", None), "name", None)
    return str(name or getattr(source.target, "__name__", source.target)).rpartition("::")[2]


def _numbered(name: str, taken: Counter[str]) -> str:
    taken[name] += 1
    return name if taken[name] == 1 else f"{name}_{taken[name]}"


def name_constants(model: ir.Model) -> None:
    """Name the numbers and small tensors of the translations by their contents, for people who read the graph."""
    initializers = model.graph.initializers
    for value in list(initializers.values()):
        tensor = value.const_value
        source = (value.name or "").rpartition(".")[2]
        if tensor is None or not source.startswith("Constant") or value.is_graph_output():
            continue
        name = tensor.name if tensor.name and tensor.name.startswith("hadamard") else _spelled(tensor)
        if name and name not in initializers:
            del initializers[value.name]  # type: ignore[arg-type]
            value.name = name
            initializers[name] = value


def _spelled(tensor: Any) -> str:
    if tensor.size > 4:
        return ""
    numbers = ", ".join(f"{number:g}" if isinstance(number, float) else str(number) for number in tensor.numpy().reshape(-1).tolist())
    return f"{tensor.dtype.name.lower()}[{numbers}]" if tensor.shape.rank() else f"{tensor.dtype.name.lower()} {numbers}"


def name_inputs(model: ir.Model, names: list[str | None]) -> None:
    """Give the inputs their names again: simplifying gives that of an input which is returned to the output."""
    for value, name in zip(model.graph.inputs, names, strict=True):
        for output in model.graph.outputs:
            if output.name == name:
                output.name = f"{name}.output"
        value.name = name


def name_outputs(model: ir.Model, names: list[str]) -> None:
    """Give the outputs their names, ``<name>.output`` where an input has it; whatever else has one of these names gets another."""
    outputs = list(model.graph.outputs)
    inputs = {value.name for value in model.graph.inputs}
    taken: Counter[str] = Counter()
    names = [_numbered(f"{name}.output" if name in inputs else name, taken) for name in names]
    wanted = set(names)
    everything = [*model.graph.inputs, *model.graph.initializers.values()]
    everything += [value for node in ir.traversal.RecursiveGraphIterator(model.graph) for value in node.outputs]
    for value in everything:
        if value.name in wanted and value not in outputs and not value.is_graph_input():
            value.name = f"{value.name}{INNER}"
    for value, name in zip(outputs, names, strict=True):
        value.name = name


def name_dimensions(model: ir.Model, names: list[dict[int, str]], positions: list[int]) -> dict[str, str]:
    """Return symbol -> name for the inputs at ``positions`` among the leaves that ``names`` describes."""
    mapping: dict[str, str] = {}
    for value, position in zip(model.graph.inputs, positions, strict=False):
        if position >= len(names) or value.shape is None:
            continue
        for axis, name in names[position].items():
            dim = value.shape[axis] if axis < len(value.shape) else None
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                mapping.setdefault(dim.value, name)
    return mapping


def rename_symbols(model: ir.Model, mapping: dict[str, str]) -> None:
    """Write the names of ``mapping`` for the symbols in every shape of the graph, also inside expressions such as ``s1 + s11``.

    A symbol without a name that is spelled like one of the names gets another.
    """
    if not mapping:
        return
    values = [*model.graph.inputs, *model.graph.outputs]
    values += [value for node in ir.traversal.RecursiveGraphIterator(model.graph) for value in node.outputs]
    dims = {dim.value for value in values for dim in value.shape or () if isinstance(dim, ir.SymbolicDim) and dim.value is not None}
    symbols = {symbol for dim in dims for symbol in WORD.findall(dim)}
    names = {symbol: mapping[symbol] for symbol in symbols if symbol in mapping}
    taken = {*symbols, *names.values()}
    for symbol in sorted(symbols - set(names)):
        if symbol in names.values():
            names[symbol] = next(name for number in itertools.count(2) if (name := f"{symbol}_{number}") not in taken)
            taken.add(names[symbol])
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dim, names) for dim in value.shape])


def _renamed(dim: Any, names: dict[str, str]) -> Any:
    if not isinstance(dim, ir.SymbolicDim) or dim.value is None:
        return dim
    return WORD.sub(lambda match: names.get(match[0], match[0]), dim.value)
