"""Weights that processes have gathered in low bits as what they are made of: a step of capture, where a graph has such inputs."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from lowbit_compiler.passes.graph import copied
from lowbit_compiler.passes.notes import note
from lowbit_compiler.runtime.gathered import GatheredWeight
from lowbit_compiler.torch_internals.sources import keep_source

Run = Callable[..., Any]


class Opened:
    """A graph whose gathered weights are computed from their parts, and its inputs.

    Before and after::

        %y = linear(%x, %w)                           # GatheredWeight

        %u = lowbit.unpack(%w_part0, "s8", [], 64, 128, 32)
        %d = lowbit.dequantize_s8(getitem(%u, 0), getitem(%u, 1), float32)
        %y = linear(%x, to(%d, float32))

    That is a weight which is low-bit already (passes/stored.py), so codes are multiplied as they came.
    """

    def __init__(self, gm: fx.GraphModule, examples: Sequence[Any]) -> None:
        """``gm`` is a graph as Dynamo makes them, which stays as it is; ``examples`` are its inputs, one per placeholder."""
        self.gm, self.examples = gm, list(examples)
        self._open = [isinstance(example, GatheredWeight) for example in examples]
        if any(self._open):
            self.gm = _opened(gm, self._open)
            self.examples = self._inputs(examples)

    def _inputs(self, args: Sequence[Any]) -> list[Any]:
        """Return the inputs of this graph for those of the other one."""
        return [each for arg, opens in zip(args, self._open, strict=True) for each in (arg.parts if opens else (arg,))]

    def bind(self, run: Run) -> Run:
        """Return ``run``, which takes the inputs of this graph, as a function of those of the other one."""
        return (lambda *args: run(*self._inputs(args))) if any(self._open) else run


def _opened(gm: fx.GraphModule, opens: Sequence[bool]) -> fx.GraphModule:
    graph = fx.Graph()
    copied(gm.graph.nodes, graph)
    inputs = graph.find_nodes(op="placeholder")
    for old, node in zip(gm.graph.find_nodes(op="placeholder"), inputs, strict=True):
        keep_source(node, old)
    last = inputs[-1].next
    for node, opened in zip(inputs, opens, strict=True):
        if opened:
            _open(graph, node, last)
    return fx.GraphModule(gm, graph)


def _open(graph: fx.Graph, node: fx.Node, last: fx.Node) -> None:
    """Let the readers of ``node`` read what is computed before ``last`` from inputs in its place."""
    weight: GatheredWeight = node.meta["example_value"]
    parts = []
    for index, part in enumerate(weight.parts):
        with graph.inserting_before(node):
            new = graph.placeholder(f"{node.target}_part{index}")
        new.meta = {**node.meta, "example_value": part}
        keep_source(new, node)
        note(new, parameter=True, passing=True)
        parts.append(new)

    def call(op: Callable[..., Any], *args: Any) -> fx.Node:
        with graph.inserting_before(last):
            made = graph.call_function(op, args)
        made.meta["example_value"] = op(*fx.map_arg(args, lambda each: each.meta["example_value"]))
        return made

    node.replace_all_uses_with(weight.dequantized(call, tuple(parts)))
    graph.erase_node(node)
