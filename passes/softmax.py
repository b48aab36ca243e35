"""Write a softmax that is spelled with exp and sum, or with logsumexp, as one call."""

from collections.abc import Callable
from typing import Any

from torch import fx

from lowbit_compiler.passes.contract import Pass, PassContext
from lowbit_compiler.passes.graph import aten, calls, emit, erase_unused, is_tensor, same_shape, substitute, undisturbed, value
from lowbit_compiler.passes.layout import reads_elements
from lowbit_compiler.passes.spell import argument, name_of


class CanonicalSoftmax(Pass):
    """Whole softmaxes.

    Before::

        %m = amax(%x, -1, keepdim=True)          # or max(...)[0], detached or not
        %s = sub(%x, %m)
        %e = exp(%s)
        %t = sum(%e, -1, keepdim=True)
        %a = div(%e, %t)
        %l = logsumexp(%x, -1, keepdim=True)
        %b = sub(%x, %l)
        %p = aten.softmax(%y, -1)
        %c = log(%p)

    After::

        %a = aten.softmax(%x, -1)
        %b = aten.log_softmax(%x, -1)            # and softmax for exp(%b)
        %c = aten.log_softmax(%y, -1)            # finite where log met a probability that had vanished

    No intermediate may have another reader. Without the maximum it overflows where a softmax does not, so it stays as written.
    """

    name = "softmax"

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Rewrite every spelling; returns the number of softmaxes made or turned into their logarithm."""
        rewritten = 0
        for node in ctx.each(list(gm.graph.nodes)):
            rule = RULES.get(name_of(node))
            if rule is None or not is_tensor(node) or (found := rule(node)) is None:
                continue
            target, arguments, chain = found
            if not undisturbed(min(chain), node, chain):
                continue
            with gm.graph.inserting_before(node):
                new = emit(gm, target, *arguments, like=node)
            unlike = value(new).dtype is not value(node).dtype or not same_shape(value(new).shape, value(node).shape)
            if unlike or not all(reads_elements(gm, user, node, new) for user in node.users):
                gm.graph.erase_node(new)  # autocast, a sum that broadcasts, or a view of the memory order that is written out
                continue
            substitute(node, new)
            erase_unused([node, *chain])
            rewritten += 1
        return rewritten


Found = tuple[Any, tuple[Any, ...], list[fx.Node]]
"""The op, its arguments, and the nodes that it replaces."""


def _quotient(node: fx.Node) -> Found | None:
    """``e / e.sum(d)`` with ``e = exp(x - x.amax(d))``."""
    if len(node.args) != 2 or node.kwargs:
        return None
    arguments: Any = node.args
    e, total = arguments
    summed = _reduced(total, "sum")
    if name_of(e) != "exp" or e.kwargs or summed is None or summed[0] is not e or len(e.users) != 2:
        return None
    difference = e.args[0]
    pair = _difference(difference, "amax", "max")
    if pair is None or pair[1] != summed[1] or len(difference.users) != 1:
        return None
    x, dim, chain = pair
    return aten.softmax.int, (x, dim), [*chain, e, *summed[2]]


def _difference(node: Any, *names: str) -> tuple[fx.Node, int, list[fx.Node]] | None:
    """Return (x, dim, nodes) of ``x`` minus its reduction."""
    if name_of(node) != "sub" or len(node.args) != 2 or node.kwargs:
        return None
    x, reduced = node.args
    found = _reduced(reduced, *names)
    if found is None or _attached(found[0])[0] is not x or not is_tensor(x) or not value(x).is_floating_point():
        return None
    return x, found[1], [node, *found[2], *_attached(found[0])[1]]


def _attached(node: Any) -> tuple[Any, list[fx.Node]]:
    """Return what is detached: nothing here needs a gradient."""
    return (node.args[0], [node]) if name_of(node) == "detach" else (node, [])


def _values(node: Any) -> bool:
    """Return whether ``node`` is the first of the pair that max gives; of a tensor, ``[0]`` is a row."""
    return name_of(node) == "getitem" and node.args[1] == 0 and name_of(node.args[0]) == "max" and not is_tensor(node.args[0])


def _reduced(node: Any, *names: str) -> tuple[Any, int, list[fx.Node]] | None:
    """Return (x, dim, nodes) where ``node`` reduces one dimension of x, and keeps it as 1; all nodes with one reader."""
    chain = []
    inserted = None
    while name_of(node) in ("detach", "unsqueeze") or _values(node):
        if name_of(node) == "unsqueeze":
            inserted = argument(node, 1, "dim")
        chain.append(node)
        node = node.args[0]
    if name_of(node) not in names or set(node.kwargs) - {"dim", "keepdim"}:
        return None
    chain.append(node)
    x, dim, kept = node.args[0], argument(node, 1, "dim"), argument(node, 2, "keepdim", False)
    if isinstance(dim, list | tuple) and len(dim) == 1:
        dim = dim[0]
    if not is_tensor(x) or not isinstance(dim, int) or any(len(n.users) != 1 for n in chain) or kept == (inserted is not None):
        return None
    dims = value(x).dim()
    if dims == 0 or (inserted is not None and inserted % dims != dim % dims):
        return None
    return x, dim % dims, chain


def _shifted(node: fx.Node) -> Found | None:
    """``x - logsumexp(x, d)``."""
    found = _difference(node, "logsumexp")
    return found and (aten.log_softmax.int, found[:2], found[2])


def _other(inner: Any, outer: Any) -> Callable[[fx.Node], Found | None]:
    """The logarithm of a softmax, or the exponential of a log-softmax."""

    def rule(node: fx.Node) -> Found | None:
        source: Any = node.args[0]
        if len(node.args) != 1 or node.kwargs or not calls(source, inner) or len(source.users) != 1:
            return None
        return outer, source.args, [node, source]

    return rule


RULES: dict[str, Callable[[fx.Node], Found | None]] = {
    "div": _quotient,
    "sub": _shifted,
    "exp": _other(aten.log_softmax.int, aten.softmax.int),
    "log": _other(aten.softmax.int, aten.log_softmax.int),
}
