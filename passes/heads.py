"""Key heads that a model writes once for each query head that reads them: found, so that they need not be."""

from typing import Any

from torch import fx

from lowbit_compiler.passes.graph import same, same_shape, value
from lowbit_compiler.passes.spell import argument, name_of


def unrepeated(node: Any) -> tuple[fx.Node, list[fx.Node]] | None:
    """Return the [B, G, S, E] tensor whose heads ``node`` [B, H, S, E] repeats, one after the other, and the nodes between.

    Spelled as transformers' repeat_kv (unsqueeze or an index with None, expand, reshape) or as repeat_interleave; None for anything else.
    """
    name = name_of(node)
    if name == "contiguous" and (below := unrepeated(node.args[0])) is not None:
        return below[0], [node, *below[1]]
    if name == "repeat_interleave":
        repeats, dim = argument(node, 1, "repeats"), argument(node, 2, "dim")
        source = node.args[0]
        return (source, [node]) if isinstance(repeats, int) and dim in (1, -3) and _fits(source, node) else None
    if name != "reshape":
        return None
    expand = node.args[0]
    insert = expand.args[0] if name_of(expand) == "expand" else None
    if insert is None or not _inserts_head(insert):
        return None
    source = insert.args[0]
    batch, heads, *rest = value(source).shape if value(source).dim() == 4 else (0, 0)
    wide = value(expand).shape
    if (
        len(wide) != 5
        or not same_shape((wide[0], wide[1], *wide[3:]), (batch, heads, *rest))
        or not same(heads * wide[2], value(node).shape[1])
    ):
        return None
    return (source, [node, expand, insert]) if _fits(source, node) else None


def _inserts_head(node: Any) -> bool:
    """Return whether ``node`` is ``x[:, :, None]`` of a 4-D tensor."""
    name = name_of(node)
    if name == "unsqueeze":
        return argument(node, 1, "dim") in (2, -3) and value(node).dim() == 5
    if name != "getitem" or not isinstance(node.args[1], tuple) or len(node.args[1]) < 3:
        return False
    everything = slice(None, None, None)
    index = node.args[1]
    return index[2] is None and all(item == everything for item in (*index[:2], *index[3:])) and value(node).dim() == 5


def _fits(source: Any, node: fx.Node) -> bool:
    """Return whether the two differ in their heads only, and are read-only from here on."""
    x, y = value(source), value(node)
    return x.dim() == y.dim() == 4 and same_shape((x.shape[0], *x.shape[2:]), (y.shape[0], *y.shape[2:]))
