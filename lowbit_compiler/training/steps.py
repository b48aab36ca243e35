"""Step sizes that the model learns, as inputs of a graph that trains and of the bodies that it checkpoints."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import fx

from lowbit_compiler.capture.expand import WRAPPERS
from lowbit_compiler.runtime.steps import NAMES, Steps
from lowbit_compiler.training.linears import Region, operands

Both = tuple[fx.Node, fx.Node]
"""The step sizes of an activation and of a weight."""


@dataclass
class Inputs:
    """What a graph gets: ``nodes`` by the weight, an input of the same graph, and ``steps``, in the order of the outermost graph's new inputs."""

    nodes: dict[fx.Node, Both] = field(default_factory=dict)
    steps: list[Steps] = field(default_factory=list)


def add_steps(region: Region, linears: Iterable[tuple[Region, fx.Node]], known: Mapping[int, Steps]) -> Inputs:
    """Give every graph the step sizes of the ``linears`` in it as inputs, behind those that it has, and every call of a body its operands.

    ``known`` has them by the ids of weights. A body that is called twice gets them where both calls' weights have them.
    """
    regions = list(_everywhere(region))
    own: dict[int, list[fx.Node]] = {}
    for inner, node in linears:
        weight = operands(node)[1]
        if all(id(each.inputs.get(weight)) in known for each in regions if each.gm is inner.gm):
            own.setdefault(id(inner.gm), []).append(weight)
    made = Inputs()
    weights = _into(region, own, made, {})
    made.steps = [known[id(region.inputs[weight])] for weight in weights]
    return made


def _everywhere(region: Region) -> Iterator[Region]:
    yield region
    for body in region.bodies.values():
        yield from _everywhere(body)


def _into(region: Region, own: Mapping[int, list[fx.Node]], made: Inputs, done: dict[int, list[fx.Node]]) -> list[fx.Node]:
    """Add the inputs to ``region`` and the bodies in it; returns the weights that they belong to, in their order."""
    if id(region.gm) in done:
        return done[id(region.gm)]
    passed = {call: _outside(call, body, _into(body, own, made, done)) for call, body in region.bodies.items()}
    weights = list(dict.fromkeys([*own.get(id(region.gm), []), *(weight for outer in passed.values() for weight in outer)]))
    graph = region.gm.graph
    with graph.inserting_before(next(node for node in graph.nodes if node.op != "placeholder")):
        for index, weight in enumerate(weights):
            x, w = (graph.placeholder(f"{name}_{index}") for name in NAMES)
            made.nodes[weight] = x, w
    for call, outer in passed.items():
        call.args = (*call.args, *(step for weight in outer for step in made.nodes[weight]))
    done[id(region.gm)] = weights
    return weights


def _outside(call: fx.Node, body: Region, weights: Iterable[fx.Node]) -> list[fx.Node]:
    """Return what the graph around a call of ``body`` passes as its ``weights``."""
    given = dict(zip(body.gm.graph.find_nodes(op="placeholder"), call.args[WRAPPERS[call.target] :], strict=False))
    return [given[weight] for weight in weights]  # type: ignore[misc]
