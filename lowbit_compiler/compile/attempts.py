"""Rewriting that goes on where a pass fails at some call of the model: that call stays in float, the others are rewritten."""

import logging
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from torch import fx

from lowbit_compiler.errors import PassError
from lowbit_compiler.passes.graph import copied

log = logging.getLogger("lowbit_compiler")
MOST = 32  # failures, each of which costs a run of all passes, before the graph is given up whole
MOST_ALIKE = 4  # failures at calls of one function, before all its calls are refused
T = TypeVar("T")


def attempts(gm: fx.GraphModule, rewrite: Callable[[dict[str, str]], T], strict: bool = False) -> T:
    """Return ``rewrite(refused)``, which rewrites ``gm`` in place, for as few refused calls as it takes.

    ``refused`` are calls of the captured graph, by name, and what went wrong there; before each attempt ``gm`` has the graph as captured.
    Raises the PassError where it is at no call that could be refused, and at once where ``strict``.
    """
    refused: dict[str, str] = {}
    failures: Counter[object] = Counter()
    for _ in range(MOST):
        captured = _copy(gm.graph)
        try:
            return rewrite(refused)
        except PassError as error:
            new = error.origins - refused.keys()
            if strict or not new:
                raise
            for name in sorted(new):
                log.warning("%s is left in float: %s", name, error)
                refused[name] = str(error)
            failures.update(node.target for node in captured.nodes if node.name in new)
            for node in captured.nodes:
                if failures[node.target] >= MOST_ALIKE and node.name not in refused:
                    refused[node.name] = f"as {MOST_ALIKE} others like it: {error}"
            gm.graph = captured
    return rewrite(refused)


def notes(refused: dict[str, str]) -> list[str]:
    """Return what a report says of refused calls."""
    return [f"internal error at %{name}, which is left in float: {error}" for name, error in refused.items()]


def _copy(graph: fx.Graph) -> fx.Graph:
    copy = fx.Graph()
    for node, new in copied(graph.nodes, copy).items():
        new.name = node.name
    return copy
