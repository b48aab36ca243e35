"""A rewritten graph in engines, which hold its quantized weights: TensorRT reads few bits as constants alone."""

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

from torch import Tensor, fx

from lowbit_compiler.exits.torch_tensorrt.converters import CONVERTERS, Converter
from lowbit_compiler.exits.torch_tensorrt.network import Network
from lowbit_compiler.exits.torch_tensorrt.whole import keep_whole, whole_ops
from lowbit_compiler.passes.graph import value
from lowbit_compiler.torch_internals import torch_tensorrt

ATTRIBUTE = "lowbit_"  # begins the name of a weight in the graph that is compiled


class Engines:
    """Calls ``gm`` with its last inputs, the ``weights``, as constants of engines.

    Engines are built for every set of weights that a call comes with, known by which tensors they are: whoever calls makes new ones
    where the float weights are others. Engines go with the tensors that they are of.
    """

    def __init__(self, gm: fx.GraphModule, weights: Sequence[str]) -> None:
        placeholders = [node.name for node in gm.graph.find_nodes(op="placeholder")]
        self._given = len(placeholders) - len(weights)
        if placeholders[self._given :] != list(weights):
            raise RuntimeError(f"the weights are not the last inputs: {', '.join(weights)} of {', '.join(placeholders)}")
        self._gm, self._weights = gm, tuple(weights)
        self._built: dict[tuple[int, ...], Callable[..., Any]] = {}
        self._lock = threading.Lock()

    def __call__(self, *args: Any) -> Any:
        return self.load(args[self._given :])(*args[: self._given])

    def load(self, values: Sequence[Tensor]) -> Callable[..., Any]:
        """Return what computes the graph with the weights ``values`` from its other inputs, built where it is not there."""
        key = tuple(map(id, values))
        if (built := self._built.get(key)) is not None:
            return built
        with self._lock:
            if key not in self._built:  # another thread may have been first
                _register()
                gm = bound(self._gm, dict(zip(self._weights, values, strict=True)))
                examples = [value(node) for node in gm.graph.find_nodes(op="placeholder")]
                self._built[key] = torch_tensorrt.compile_graph(gm, examples)
                for each in values:
                    weakref.finalize(each, self._built.pop, key, None)
            return self._built[key]


def engines_of(gm: fx.GraphModule, weights: Mapping[str, Tensor]) -> Engines:
    """Return ``gm`` in engines, built for the ``weights`` that its last inputs are."""
    engines = Engines(gm, list(weights))
    engines.load(list(weights.values()))
    return engines


def bound(gm: fx.GraphModule, values: dict[str, Tensor]) -> fx.GraphModule:
    """Return a copy of ``gm`` in which the placeholders that ``values`` names are those tensors; no tensor object is kept alive, but its memory."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(gm.graph, {}))
    copy = fx.GraphModule(gm, graph)
    for node in graph.find_nodes(op="placeholder"):
        if (tensor := values.get(node.name)) is not None:
            copy.register_buffer(ATTRIBUTE + node.name, tensor.detach())
            with graph.inserting_before(node):
                constant = graph.get_attr(ATTRIBUTE + node.name)
            constant.meta = dict(node.meta)
            node.replace_all_uses_with(constant)
            graph.erase_node(node)
    keep_whole(graph)
    copy.recompile()
    return copy


@cache
def _register() -> None:
    """Tell torch_tensorrt of our ops, once in a process: how they are written, and that weights stay in few bits."""
    whole = whole_ops()
    torch_tensorrt.keep_folded([*CONVERTERS, *whole.values()])
    torch_tensorrt.register({whole.get(op, op): (partial(_layers, each), partial(_fits, each)) for op, each in CONVERTERS.items()})


def _layers(converter: Converter, trt: Any, definition: Any, kept: list[Any], name: str, args: tuple[Any, ...]) -> Any:
    return converter.layers(Network(trt, definition, name, kept), *args[: converter.count])


def _fits(converter: Converter, node: fx.Node) -> bool:
    """Return whether a node is converted; one that is not stays an op of torch, between engines."""
    args: tuple[Any, ...] = node.args[: converter.count]  # behind them is what it only comes after
    constant = all(isinstance(args[place], fx.Node) and args[place].op == "get_attr" for place in converter.constants)
    return constant and not node.kwargs and converter.fits(*map(value, args))
