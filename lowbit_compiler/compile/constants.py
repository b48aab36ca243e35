"""Compute a constant from its parameters: some rows at a time, where every step treats each row of the weight alone."""

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from lowbit_compiler.passes.graph import aten, calls
from lowbit_compiler.passes.product import quantization
from lowbit_compiler.runtime.formats import KINDS, PACKED, SWITCHABLE
from lowbit_compiler.runtime.formats.operand import op_name
from lowbit_compiler.runtime.packing import PANEL
from lowbit_compiler.runtime.treatments import TREATMENTS
from lowbit_compiler.runtime.treatments.treatment import packet

QUANTIZERS = tuple(packet(op_name("quantize", *kind)) for kind in KINDS if kind[1].row_local)
PACKERS = tuple(packet(op_name("pack", *kind)) for kind in PACKED if kind[1].row_local and kind not in SWITCHABLE)
AT_ONCE = tuple(packet(op_name("pack", *kind)) for kind in SWITCHABLE)
"""Those that write something behind the panels."""
TREATERS = tuple(packet(op.name) for treatment in TREATMENTS.values() for op in treatment.ops if op.row_local)
ROW_BY_ROW = (aten.to.dtype, *TREATERS, *QUANTIZERS, *PACKERS)
CHUNK = 1 << 22
"""Bytes of float32 rows at a time: a step finds in the cache what the step before it wrote."""


def compute(graph: fx.Graph, *sources: Tensor) -> tuple[Tensor, ...]:
    """Return the outputs of ``graph``, which the fold pass cut out, for its ``sources``.

    A weight (or weights joined along dim 0) is converted, treated, quantized and packed in chunks of rows: the float32 temporaries
    of a whole output head are larger than a small model.
    """
    values = dict(zip(graph.find_nodes(op="placeholder"), sources, strict=True))
    steps = [node for node in graph.nodes if node.op == "call_function"]
    outputs: Any = graph.output_node().args[0]
    if not calls(outputs[0], *AT_ONCE):
        return _of_rows(steps, outputs, values)
    *before, packing = steps  # codes and scales are those of rows all the same
    parts = packing.all_input_nodes
    values.update(zip(parts, _of_rows(before, parts, values), strict=True))
    _run([packing], values)
    return (values[packing],)


def _of_rows(steps: Sequence[fx.Node], outputs: Sequence[fx.Node], values: dict[fx.Node, Any]) -> tuple[Tensor, ...]:
    """Return the values of ``outputs``, from those that there are."""
    entry, chain = _chain(steps, outputs)
    if entry is None:
        _run(steps, values)
        return tuple(values[node] for node in outputs)
    joined = joins_rows(entry)
    _run((step for step in steps if step not in chain and not (joined and step is entry)), values)
    operands: Any = entry.args[0] if joined else [entry]
    return _in_chunks([step for step in steps if step in chain], outputs, entry, [values[operand] for operand in operands])


def go_on(graph: fx.Graph, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the outputs of ``graph``, which quantizes one weight, from the ``parts`` of that weight on."""
    quantize = quantization(graph)
    values: dict[fx.Node, Any] = {quantize: parts}
    for node in graph.nodes:
        if node.op == "call_function" and node is not quantize and any(source in values for source in node.all_input_nodes):
            _run([node], values)
    outputs: Any = graph.output_node().args[0]
    return tuple(values[node] for node in outputs)


def joins_rows(node: fx.Node) -> bool:
    """Return whether ``node`` joins matrices along dim 0."""
    return calls(node, aten.cat.default) and node.args[1:] in ((), (0,))


def text_of(graph: fx.Graph) -> str:
    """Return a text that is equal where the computation is equal: the graph's calls with positions for names."""
    names: dict[fx.Node, str] = {}
    lines = []
    for node in graph.nodes:
        names[node] = f"%{len(names)}"
        args = fx.map_arg((node.args, node.kwargs), lambda n: names[n])
        lines.append(f"{node.op} {'' if node.op == 'placeholder' else node.target} {args}")
    return "\n".join(lines)


def _chain(steps: Sequence[fx.Node], outputs: Sequence[fx.Node]) -> tuple[fx.Node | None, set[fx.Node]]:
    """Return the steps that end in ``outputs`` and work row by row, and the one matrix that they start from (None: there is none)."""
    chain: set[fx.Node] = set()
    for step in reversed(steps):
        part = calls(step, operator.getitem) and calls(step.args[0], *QUANTIZERS)
        if (part or calls(step, *ROW_BY_ROW)) and all(user in chain or step in outputs for user in step.users):
            chain.add(step)
    entries = {node for step in chain for node in step.all_input_nodes if node not in chain}
    if len(entries) == 1 and all(node in chain for node in outputs):
        (entry,) = entries
        if entry.meta["val"].dim() == 2:
            return entry, chain
    return None, set()


def _run(steps: Iterable[fx.Node], values: dict[fx.Node, Any]) -> None:
    for step in steps:
        args, kwargs = fx.map_arg((step.args, step.kwargs), lambda n: values[n])
        values[step] = step.target(*args, **kwargs)  # type: ignore[operator]


def _in_chunks(chain: Sequence[fx.Node], outputs: Sequence[fx.Node], entry: fx.Node, operands: Sequence[Tensor]) -> tuple[Tensor, ...]:
    rows, width = sum(len(operand) for operand in operands), operands[0].shape[1]
    step = max(CHUNK // (4 * max(width, 1)) // PANEL, 1) * PANEL  # whole panels, so that chunks of packed rows join
    results: list[Tensor] = []
    for start in range(0, max(rows, 1), step):
        values: dict[fx.Node, Any] = {entry: _rows(operands, start, start + step)}
        _run(chain, values)
        parts = [values[node] for node in outputs]
        if rows <= step:
            return tuple(parts)
        if not results:
            results = [part.new_empty((-(-rows * len(part) // step), *part.shape[1:])) for part in parts]  # rows, or panels of rows
            sizes = [len(part) for part in parts]
        for result, part, size in zip(results, parts, sizes, strict=True):
            result[start // step * size :][: len(part)] = part
    return tuple(results)


def _rows(operands: Sequence[Tensor], start: int, stop: int) -> Tensor:
    """Return rows ``start`` to ``stop`` of the operands joined."""
    parts = []
    for operand in operands:
        parts.append(operand[max(start, 0) : max(stop, 0)])
        start, stop = start - len(operand), stop - len(operand)
    return parts[0] if len(parts) == 1 else torch.cat(parts)
