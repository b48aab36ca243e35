"""Codes of activations, written into a graph once for all linears that have one input: quantized once, and kept once."""

import operator

import torch
from torch import fx

from lowbit_compiler.passes.writes import written
from lowbit_compiler.runtime.training.plan import TrainingPlan
from lowbit_compiler.training.linears import Region


class Codes:
    """What ``plan`` makes of the inputs of the linears of ``region``; nothing where each linear makes its own."""

    def __init__(self, region: Region, plan: TrainingPlan) -> None:
        self._quantizer = plan.quantizer
        self._made: dict[tuple[fx.Node, int], list[fx.Node]] = {}
        self._writes: dict[fx.Node, int] = {}
        """How many calls before a node write to memory: before and after one, an input may hold other numbers."""
        for inner in region.each():
            count = 0
            for node in inner.gm.graph.nodes:
                self._writes[node] = count
                count += bool(written(node))

    def of(self, x: fx.Node, linear: fx.Node) -> list[fx.Node]:
        """Return codes and scales of ``x`` as ``linear`` meets it, which have no gradient; where they are new, in front of it."""
        if self._quantizer is None:
            return []
        key = (x, self._writes[linear])
        if key not in self._made:
            op, arguments = self._quantizer
            with linear.graph.inserting_before(linear):
                alone = linear.graph.call_method("detach", (x,))
                parts = linear.graph.call_function(getattr(torch.ops.lowbit, op).default, (alone, *arguments))
                self._made[key] = [linear.graph.call_function(operator.getitem, (parts, i)) for i in range(2)]
        return self._made[key]
