"""Keep sines and cosines that many layers read, where Inductor would compute them again for each."""

import torch
from torch import fx

from lowbit_compiler.passes.calls import hint
from lowbit_compiler.passes.contract import Pass, PassContext
from lowbit_compiler.passes.graph import emit, is_tensor, same_shape, substitute, value
from lowbit_compiler.passes.notes import notes
from lowbit_compiler.passes.spell import cast, name_of, scaled

prims = torch.ops.prims


class ShareTables(Pass):
    """Have tables of sines and cosines (rotary embeddings) written to memory once.

    Inductor fuses a cheap-looking value into all that read it, and takes these for cheap: in a language model each layer computed the
    sines of all its positions for every head again. A GPU has the time for that.

    Before::

        %t = cos(%angles)
        %c = to(%t, bfloat16)                              # read by each layer

    After::

        %t = cos(%angles)
        %c = to(%t, bfloat16)
        %s = prims.inductor_force_stride_order(%c, [32768, 64, 1])
    """

    name = "share"

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Keep every table with more than one reader; returns their number."""
        kept = 0
        if ctx.target.device != "cpu":
            return kept
        for node in ctx.each(list(gm.graph.nodes)):
            if len(node.users) < 2 or not _is_table(node) or notes(node).written:
                continue
            # Inductor reads no more than the order of the strides, which must be numbers.
            with gm.graph.inserting_after(node):
                table = emit(
                    gm, prims.inductor_force_stride_order.default, node, [hint(stride) for stride in value(node).stride()], like=node
                )
            substitute(node, table, but=table)
            kept += 1
        return kept


def _is_table(node: fx.Node) -> bool:
    """Return whether ``node`` is a sine or cosine, scaled or cast."""
    while is_tensor(node):
        if name_of(node) in ("sin", "cos"):
            return True
        below = cast(node) or (scaled(node) or (None,))[0]
        if below is None or not same_shape(value(below).shape, value(node).shape):
            return False
        node = below
    return False
