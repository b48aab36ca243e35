"""Drop the parameters that nothing reads any more."""

from torch import fx

from lowbit_compiler.passes.contract import Pass, PassContext


class Cleanup(Pass):
    """Erase unused parameter inputs; other inputs keep their place.

    Before::

        %w = placeholder                # the float weight, replaced by %weight_0
        %x = placeholder

    After::

        %x = placeholder
    """

    name = "cleanup"

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Erase the placeholders of parameters without users; returns their number."""
        unused = [node for node in gm.graph.nodes if node.op == "placeholder" and not node.users and node.name in ctx.parameters]
        for node in unused:
            gm.graph.erase_node(node)
        return len(unused)
