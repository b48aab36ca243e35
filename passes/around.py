"""What is around a softmax in its graph, and counts in what it costs there: nothing at all, or loops that Inductor would make one with it."""

from collections.abc import Container, Iterable
from typing import Any

from torch import fx

from lowbit_compiler.passes.graph import is_tensor, shares_memory
from lowbit_compiler.passes.spell import raw_name


def is_alone(graph: fx.Graph, ours: Container[fx.Node]) -> bool:
    """Return whether ``ours`` are all that ``graph`` calls."""
    return all(node in ours for node in graph.nodes if node.op not in ("placeholder", "output"))


def loops(source: fx.Node, result: fx.Node, apart: Container[fx.Node]) -> int:
    """Return on how many sides of a softmax there is a loop of Inductor's: on that of its ``source``, and of its ``result``.

    ``apart`` are the calls that get a kernel of their own, such as products. A view is no loop, but there may be one behind it.
    """
    return int(_is_loop(_above(source), apart)) + int(any(_is_loop(node, apart) for node in _below(result)))


def _is_loop(node: fx.Node, apart: Container[fx.Node]) -> bool:
    return node.op not in ("placeholder", "output") and node not in apart


def _above(node: fx.Node) -> fx.Node:
    """Return what ``node`` is a view of."""
    while (seen := next((x for x in node.all_input_nodes if _is_view(node, x)), None)) is not None:
        node = seen
    return node


def _below(node: fx.Node) -> Iterable[fx.Node]:
    """Return what reads ``node`` or a view of it."""
    for user in node.users:
        yield from _below(user) if _is_view(user, node) else [user]


def _is_view(node: fx.Node, of: Any) -> bool:
    return is_tensor(node) and is_tensor(of) and shares_memory(node, of) and not raw_name(node).endswith("_")
