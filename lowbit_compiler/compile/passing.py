"""Constants of one call alone: computed from what processes gather for each, and not kept."""

import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from lowbit_compiler.compile.constants import compute, joins_rows
from lowbit_compiler.passes.contract import Constant
from lowbit_compiler.passes.graph import calls
from lowbit_compiler.passes.product import PACK
from lowbit_compiler.runtime.packing import PANEL

aten = torch.ops.aten
UNPACK = torch.ops.lowbit.unpack.default


class Passing:
    """Of a rewritten graph's constants those that some input is gathered for: further inputs, computed at each call.

    What a weight is packed again of is mostly panels that came from other processes: then these are the packed weight, and nothing is computed.
    """

    def __init__(self, inputs: Sequence[str], gathered: Collection[str], constants: Sequence[Constant]) -> None:
        """``inputs`` are the names of what a call is given, of which the ``gathered`` ones hold for that call alone."""
        position = {name: index for index, name in enumerate(inputs)}
        self.constants = [constant for constant in constants if not set(gathered).isdisjoint(constant.sources)]
        self.names = [name for constant in self.constants for name in constant.outputs]
        self._work = [(_short(constant.graph), [position[name] for name in constant.sources]) for constant in self.constants]

    def __call__(self, args: Sequence[Any]) -> list[Tensor]:
        """Return the values of ``names`` for the inputs ``args``."""
        with torch.no_grad():
            return [value for work, positions in self._work for value in work(*(args[i] for i in positions))]

    def move(self, gm: fx.GraphModule) -> None:
        """Let these inputs of the rewritten graph ``gm`` stand before the constants that are kept."""
        nodes = {node.name: node for node in gm.graph.find_nodes(op="placeholder")}
        others = [node for name, node in nodes.items() if name not in self.names]
        for name in self.names:
            others[0].prepend(nodes[name])

    def bind(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``run``, which takes these values behind the inputs, as a function of the inputs."""
        return (lambda *args: run(*args, *self(args))) if self.names else run


def _short(graph: fx.Graph) -> Callable[..., tuple[Tensor, ...]]:
    """Return what computes the outputs of ``graph``: by joining panels, where it unpacks and packs those alone."""
    found = _joined(graph)
    if found is None:
        return lambda *sources: compute(graph, *sources)
    inputs = graph.find_nodes(op="placeholder")
    positions = [inputs.index(node) for node in found]
    if len(positions) == 1:
        return lambda *sources: (sources[positions[0]],)
    return lambda *sources: (torch.cat([sources[i] for i in positions]),)


def _joined(graph: fx.Graph) -> list[fx.Node] | None:
    """Return the packed inputs whose panels, one below another, are what ``graph`` returns; None where more is done to them."""
    outputs: Any = graph.output_node().args[0]
    if len(outputs) != 1 or not calls(outputs[0], *PACK):
        return None
    pack: Any = outputs[0]
    columns = [_unpacked(node, index) for index, node in enumerate(pack.all_input_nodes)]
    first = columns[0]
    if first is None or any(column != first for column in columns):
        return None
    settings = list(pack.args[len(columns) :])
    whole = all(list(node.args[2]) == settings and node.args[5] % PANEL == 0 for node in first)
    return [node.args[0] for node in first] if whole else None


def _unpacked(node: fx.Node, index: int) -> list[Any] | None:
    """Return the calls that unpack the weights whose parts number ``index``, joined by rows, are ``node``; None where it is anything else."""
    each: Any = node.args[0] if joins_rows(node) else [node.args[0] if calls(node, aten.alias.default) else node]
    found = [part.args[0] for part in each if calls(part, operator.getitem) and part.args[1] == index]
    return found if len(found) == len(each) and all(calls(one, UNPACK) for one in found) else None
