"""Products of DTensors as products of what this process holds of them: the first step of capture, where a graph has DTensors."""

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from lowbit_compiler.capture.dialect import to_aten
from lowbit_compiler.capture.local_inputs import Inputs, Place
from lowbit_compiler.capture.opened import Opened
from lowbit_compiler.capture.summed import Sums, add_up, read_sum, read_whole
from lowbit_compiler.passes.graph import aten, copied
from lowbit_compiler.passes.notes import Parts, note, notes
from lowbit_compiler.passes.writes import mark_written
from lowbit_compiler.torch_internals import dtensor
from lowbit_compiler.torch_internals.sources import is_static, keep_source

Run = Callable[..., Any]
LINEAR = (F.linear, aten.linear.default)


class Localized:
    """A graph in which products of DTensors are local ones, as far as their placements allow, and its inputs.

    Before and after, with a weight split by columns::

        %y = linear(%x, %w, %b)                       # DTensor x DTensor -> DTensor [Partial(sum)]
        %z = %y.redistribute([Replicate()])

        %x_1 = %x.to_local()
        %y_1 = aten.linear.default(%x_1, %w_local)    # the first process of the row adds the bias
        %y = dtensor.product(%y_1, %x, N, (1,))
        %z = %y.redistribute([Replicate()])

    So a product over several processes is the sum, or the rows side by side, of products that each computes as if it were alone, and what
    is packed, watched and hashed is each one's own part of the weight. What was gathered in low bits is in its parts (capture/opened.py).
    """

    def __init__(self, gm: fx.GraphModule, examples: Sequence[Any], shared: bool = False) -> None:
        """``gm`` is Dynamo's graph, which stays as it is; ``examples`` are its inputs, one per placeholder.

        ``shared``: sums of parts are written in the graph, so that their scales may be those of all processes::

            %s = _c10d_functional.all_reduce(%y_1, "sum", "0")    # %y_1 has no bias
            %w = _c10d_functional.wait_tensor(%s)
            %t = aten.add.Tensor(%w, %b)
            %y = dtensor.product(%t, %x, N, (1,), True)           # DTensor [Replicate()]
        """
        self.gm, self.examples, self._inputs = gm, list(examples), None
        if any(map(dtensor.is_dtensor, examples)):
            work = _Work(gm, examples, Sums(shared))
            self.gm = work.run(gm)
            self._inputs = Inputs(work.inputs())
            self.examples = self._inputs(examples)
        self._opened = opened = Opened(self.gm, self.examples)
        self.gm, self.examples = opened.gm, opened.examples

    gm: fx.GraphModule
    examples: list[Any]
    _inputs: Inputs | None

    @property
    def sharded(self) -> bool:
        """Whether some inputs are what this process holds of a DTensor."""
        return self._inputs is not None and self._inputs.sharded

    @property
    def summed(self) -> bool:
        """Whether products of parts may have scales that several processes share: what becomes of them must be the same in all."""
        return any(notes(node).parts is not None for node in self.gm.graph.nodes)

    def bind(self, run: Run) -> Run:
        """Return ``run``, which takes the inputs of this graph, as a function of those of Dynamo's."""
        inputs, run = self._inputs, self._opened.bind(run)
        return run if inputs is None else lambda *args: run(*inputs(args))


class _Work:
    """One graph on its way: the copy, and what stands in it for the local part of each DTensor."""

    def __init__(self, gm: fx.GraphModule, examples: Sequence[Any], sums: Sums) -> None:
        self.graph, self._sums = fx.Graph(), sums
        copied(gm.graph.nodes, self.graph)
        placeholders = self.graph.find_nodes(op="placeholder")
        for old, new in zip(gm.graph.find_nodes(op="placeholder"), placeholders, strict=True):
            keep_source(new, old)
        self._example = dict(zip(placeholders, examples, strict=True))
        written = _written(gm)
        self._written = {node for index, node in enumerate(placeholders) if index in written}
        self._last = placeholders[-1]
        self._parts: dict[fx.Node, fx.Node] = {}

    def run(self, gm: fx.GraphModule) -> fx.GraphModule:
        """Rewrite the copy, and return it as a module of its own."""
        linears = [node for node in self.graph.nodes if node.op == "call_function" and node.target in LINEAR]
        plain = [node for node in linears if not dtensor.is_dtensor(_value(node))]
        for node in list(self.graph.nodes):
            if node.op == "call_method" and node.target == "to_local" and self._is_input(node.args[0]):
                node.replace_all_uses_with(self._part(node.args[0]))
                self.graph.erase_node(node)
            elif node.op == "call_function" and node.target in LINEAR and dtensor.is_dtensor(_value(node)):
                self._linear(node)
        for node in plain:
            self._plain(node)
        standing = set(self.graph.nodes)
        for node in self._parts:
            if node in standing and not node.users:
                self.graph.erase_node(node)
        return fx.GraphModule(gm, self.graph)

    def inputs(self) -> list[Place]:
        """Return where each placeholder of the copy comes from."""
        wholes = {part: node for node, part in self._parts.items() if self._is_input(node)}
        position = {node: index for index, node in enumerate(self._example)}
        found = [(node in wholes, wholes.get(node, node)) for node in self.graph.find_nodes(op="placeholder")]
        return [Place(position[whole], local, local and self._is_weight(whole)) for local, whole in found]

    def _is_weight(self, node: fx.Node) -> bool:
        return isinstance(self._example[node], nn.Parameter) or is_static(node)

    def _is_input(self, node: fx.Node) -> bool:
        """Return whether ``node`` is an input whose local part may be one as well: of one that is written to it is an alias, which no compiler sees."""
        return node in self._example and node not in self._written

    def _linear(self, node: fx.Node) -> None:
        """Make ``node`` a local product, where the placements allow it."""
        if not to_aten(node):
            return
        given: Any = node.args
        x, weight, bias = (*given, None)[:3]
        split = self._split(node, x, weight, bias)
        if split is None:
            return
        parts = self._sums.parts(_value(weight), split)
        if isinstance(parts, Parts) and not read_whole(node):
            parts = "its parts are read before they are added up"
        if isinstance(parts, Parts):
            self._summed(node, x, weight, bias, split, parts)
            return
        result, outs = node.meta["example_value"], _value(weight).shape[0]
        if bias is not None and not dtensor.is_first(_value(weight), [index for index, dim in enumerate(split) if dim == 1]):
            bias = None  # a sum has it once
        with self.graph.inserting_before(node):
            args = (self._part(x), self._part(weight), *([self._part(bias)] if bias is not None else []))
            new = self.graph.call_function(aten.linear.default, args)
            new.meta = {**node.meta, "example_value": dtensor.local(result)}
            note(new, apart=parts or "")
        self._read(node, new)
        node.target, node.args, node.kwargs = dtensor.product, (new, x, outs, split), {}
        self._drop(node, x)

    def _summed(self, node: fx.Node, x: fx.Node, weight: fx.Node, bias: fx.Node | None, split: dtensor.Dims, parts: Parts) -> None:
        """Make ``node`` a local product and the sum of all."""
        outs = _value(weight).shape[0]
        with self.graph.inserting_before(node):
            new = self.graph.call_function(aten.linear.default, (self._part(x), self._part(weight)))
            new.meta = {**node.meta, "example_value": dtensor.local(node.meta["example_value"])}
            total = add_up(self.graph, new, parts, None if bias is None else self._part(bias))
        node.meta["example_value"] = dtensor.product(_value(total), _value(x), outs, split, True)
        self._read(node, total)
        node.target, node.args, node.kwargs = dtensor.product, (total, x, outs, split, True), {}
        self._drop(node, x)

    def _plain(self, node: fx.Node) -> None:
        """Note of a product of local parts, which the model itself adds up, which processes those are."""
        whole = next((whole for whole, part in self._parts.items() if part in node.args[1:2]), None)
        split = None if whole is None or not dtensor.is_dtensor(_value(whole)) else dtensor.dims(_value(whole))
        parts = None if split is None else self._sums.parts(_value(whole), split)
        if isinstance(parts, Parts):
            read_sum(node, parts, node.args[2] if len(node.args) > 2 else node.kwargs.get("bias"))
        elif parts is not None or (whole is None and self._computed(node)):
            note(node, apart=parts or "its weight is computed from what this process holds")

    def _computed(self, node: fx.Node) -> bool:
        """Return whether the weight of ``node`` is made of parts whose scales were to be shared: a low-bit one that is cut by columns."""
        wholes = {part: whole for whole, part in self._parts.items() if dtensor.is_dtensor(_value(whole))}
        todo, met = list(node.all_input_nodes[1:2]), set[fx.Node]()
        while todo:
            each = todo.pop()
            split = dtensor.dims(_value(wholes[each])) if each in wholes else None
            if split is not None and self._sums.parts(_value(wholes[each]), split) is not None:
                return True
            if each not in met and each.target not in LINEAR:  # behind those are no weights
                met.add(each)
                todo += each.all_input_nodes
        return False

    def _drop(self, *nodes: fx.Node) -> None:
        """Erase those that nobody reads any more: fx cannot tell that a DTensor made of a local tensor has no effects, and it would be a reader of that."""
        for node in nodes:
            if not node.users and (node.target is dtensor.product or dtensor.wraps(node.target)):
                self.graph.erase_node(node)

    def _read(self, node: fx.Node, part: fx.Node) -> None:
        """Let those who only want to have ``part``, which this process holds of ``node``, read that."""
        for user in list(node.users):
            if user.op == "call_method" and user.target == "redistribute" and _kind(user) == _kind(node):
                self._read(user, part)
                user.replace_all_uses_with(node)
                self.graph.erase_node(user)
            elif user.op == "call_method" and user.target == "to_local":
                user.replace_all_uses_with(part)
                self.graph.erase_node(user)

    def _split(self, node: fx.Node, x: Any, weight: Any, bias: Any) -> dtensor.Dims | None:
        """Return how the weight is split, if the local product is this process's part of the whole one; None if it is not."""
        if not dtensor.is_dtensor(_value(x)) or not self._is_input(weight) or (bias is not None and bias not in self._example):
            return None
        if not all(dtensor.is_dtensor(_value(each)) for each in (weight, *([bias] if bias is not None else []))):
            return None
        last, of_x, split = _value(x).dim() - 1, dtensor.dims(_value(x)), dtensor.dims(_value(weight))
        if of_x is None or split is None or len(of_x) != len(split):
            return None
        if not all(_fits(of_weight, dim, last) for dim, of_weight in zip(of_x, split, strict=True)):
            return None
        if bias is not None and dtensor.dims(_value(bias)) != tuple(0 if dim == 0 else None for dim in split):
            return None
        return split if dtensor.placed_as(_value(node), _value(x), split) else None

    def _part(self, node: fx.Node) -> fx.Node:
        """Return what stands for what this process holds of the DTensor ``node``."""
        if node not in self._parts:
            self._parts[node] = self._input(node) if self._is_input(node) else self._local(node)
        return self._parts[node]

    def _input(self, node: fx.Node) -> fx.Node:
        with self.graph.inserting_after(node):
            part = self.graph.placeholder(f"{node.target}_local")
        part.meta = {**node.meta, "example_value": dtensor.local(_value(node))}
        keep_source(part, node)
        note(part, parameter=isinstance(self._example[node], nn.Parameter))
        return part

    def _local(self, node: fx.Node) -> fx.Node:
        if node.op == "call_function" and dtensor.wraps(node.target):
            return node.all_input_nodes[0]
        with self.graph.inserting_after(self._last if node.op == "placeholder" else node):
            part = self.graph.call_method("to_local", (node,))
        part.meta = {**node.meta, "example_value": dtensor.local(_value(node))}
        return part


def _fits(of_weight: int | None, of_x: int | None, last: int) -> bool:
    """Return whether a product of parts is a part of the product, where x is split in dimension ``of_x``, whose last is K, and the weight so."""
    match of_weight:
        case None:
            return of_x != last
        case 0:
            return of_x is None
    return of_x == last


def _value(node: Any) -> Any:
    return node.meta.get("example_value") if isinstance(node, fx.Node) else None


def _kind(node: fx.Node) -> tuple[Any, ...]:
    """Return what is equal where a DTensor holds the same values in the same way: ``redistribute`` can round them too."""
    x = _value(node)
    return x.device_mesh, tuple(x.placements), x.dtype


def _written(gm: fx.GraphModule) -> set[int]:
    """Return which inputs of Dynamo's graph, by their positions, some call writes to in place, by whatever view."""
    graph = fx.Graph()
    copies = copied(gm.graph.nodes, graph)
    for node in graph.nodes:
        node.meta["val"] = _value(node)
    mark_written(fx.GraphModule(gm, graph))
    return {index for index, node in enumerate(gm.graph.find_nodes(op="placeholder")) if notes(copies[node]).written}
