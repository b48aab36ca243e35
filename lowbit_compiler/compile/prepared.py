"""Which prepared tensors (runtime/prepared.py) take the place of a constant's own quantization, or why none do."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from lowbit_compiler.compile.constants import compute, go_on, joins_rows
from lowbit_compiler.compile.narrowed import Narrowed, narrowed
from lowbit_compiler.passes.contract import Constant
from lowbit_compiler.passes.graph import calls
from lowbit_compiler.passes.product import QUANTIZE, TREAT, below, float_weight, quantization
from lowbit_compiler.runtime.prepared import Prepared
from lowbit_compiler.runtime.treatments.treatment import at_once
from lowbit_compiler.runtime.weights import where

CHANGED = "the weight was changed since"
COMPUTED = "the model computes the weight of others"
Known = Mapping[Any, Prepared]


@dataclass(frozen=True)
class Choice:
    """How a constant is computed: with the prepared tensors of ``each`` of the weights that it joins (None: quantized as always), if any."""

    graph: fx.Graph
    each: tuple[Prepared | None, ...] = ()
    positions: tuple[int, ...] = ()
    """Which of the constant's sources each weight is."""
    ignored: str = ""
    """Why prepared tensors that some source has are not taken."""
    narrow: Narrowed | None = None
    """What becomes of the values where products are to read the weight in fewer bits."""

    @property
    def token(self) -> str:
        """What tells the values from those of other prepared tensors of the same weights."""
        return "".join(f"\nprepared {one.serial}" if one else "\nas always" for one in self.each)

    def compute(self, *sources: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the constant for its ``sources``; prepared tensors come onto the device of these."""
        values = self._whole(*sources)
        return values if self.narrow is None else self.narrow(values)

    def _whole(self, *sources: Tensor) -> tuple[Tensor, ...]:
        first = next(filter(None, self.each), None)
        if first is None:
            return compute(self.graph, *sources)
        each = [_parts(one, first, sources[at]) for one, at in zip(self.each, self.positions, strict=True)]
        return go_on(self.graph, tuple(torch.cat(part) if len(part) > 1 else part[0] for part in zip(*each, strict=True)))


def choose(constant: Constant, sources: Sequence[Tensor], known: Known) -> Choice:
    """Return how ``constant`` is computed for ``sources``. Prepared tensors must be of the format and treatment in its graph."""
    return replace(_choose(constant, sources, known), narrow=narrowed(constant, sources))


def _choose(constant: Constant, sources: Sequence[Tensor], known: Known) -> Choice:
    graph = constant.graph
    found = [known.get(where(source)) for source in sources] if known else []
    if not any(found) or not any(calls(node, *QUANTIZE) for node in graph.nodes):
        return Choice(graph)
    if other := next(filter(None, (_unlike(graph, one) for one in found if one)), ""):
        return Choice(graph, ignored=other)
    weights, inputs = _joined(float_weight(graph)), graph.find_nodes(op="placeholder")
    if not all(weight in inputs for weight in weights):
        return Choice(graph, ignored=COMPUTED)
    positions = tuple(inputs.index(weight) for weight in weights)
    each = tuple(one if (one := found[at]) and one.is_of(sources[at]) else None for at in positions)
    return Choice(graph, each if any(each) else (), positions, CHANGED if list(each) != [found[at] for at in positions] else "")


def notes(choices: Iterable[Choice]) -> list[str]:
    """Return what a report says of them."""
    choices = list(choices)
    used = Counter(one.method for choice in choices for one in choice.each if one is not None)
    ignored = Counter(choice.ignored for choice in choices if choice.ignored)
    taken = [f"{count} weights as lowbit.prepare made them ({method})" for method, count in used.items()]
    narrow = Counter(choice.narrow.bits for choice in choices if choice.narrow is not None)
    taken += [f"{count} weights are read in {bits} bits (lowbit.switch_bits)" for bits, count in narrow.items()]
    return taken + [f"prepared tensors of {count} products are ignored: {reason}" for reason, count in ignored.items()]


def _parts(one: Prepared | None, like: Prepared, weight: Tensor) -> tuple[Tensor, ...]:
    if one is None:
        return like.operand.quantize(like.treatment.weight(at_once, weight.float()))
    return tuple(part.to(weight.device) for part in one.parts)


def _joined(weight: fx.Node) -> list[fx.Node]:
    """Return the weights that ``weight`` joins along N: itself, where it joins none."""
    return list(weight.args[0]) if joins_rows(weight) else [weight]  # type: ignore[arg-type]


def _unlike(graph: fx.Graph, prepared: Prepared) -> str:
    """Return how the quantization in ``graph`` differs from that of ``prepared``; "" where it does not."""
    quantize, operand = quantization(graph), prepared.operand
    target: Any = quantize.target
    if (target, quantize.args[1:]) != (operand.op("quantize"), operand.arguments):
        return f"they are {operand.name}, and this plan has {target.name().partition('::quantize_')[2]} {quantize.args[1:] or ''}".strip()
    same = _treatments(quantize.args[0]) == list(prepared.treatment.weight_ops[::-1])
    return "" if same else "they are of another treatment than this plan's"


def _treatments(node: Any) -> list[Any]:
    """Return the ops of treatments that ``node`` is made by, the last one first."""
    found: list[Any] = []
    while calls(below(node), *TREAT):
        node = below(node)
        found.append(node.target)
        node = node.args[0]
    return found
