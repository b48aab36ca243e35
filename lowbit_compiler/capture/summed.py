"""Products that are split by columns, with the sum of their parts written in the graph: what scales over several processes need."""

from typing import Any

import torch
from torch import fx

from lowbit_compiler.passes.graph import aten
from lowbit_compiler.passes.notes import Parts, note
from lowbit_compiler.runtime.gathered import GatheredWeight
from lowbit_compiler.torch_internals import collectives, dtensor


class Sums:
    """Which products of one graph may have such scales: those over one mesh, so that its processes can ask each other about all of them."""

    def __init__(self, shared: bool) -> None:
        """``shared``: whether that is asked for."""
        self._shared = shared
        self._mesh: Any = None

    def parts(self, weight: Any, split: dtensor.Dims) -> Parts | str | None:
        """Return the processes that have the parts of a product with the DTensor ``weight`` [N, K]; why they share nothing; None: there are none."""
        columns = [index for index, dim in enumerate(split) if dim == 1]
        if not self._shared or not columns:
            return None
        groups, count, k = *dtensor.groups(weight, columns), weight.shape[1]
        if count == 1:
            return None
        if isinstance(dtensor.local(weight), GatheredWeight):
            return "its weight was quantized before it was gathered"
        if k % count:
            return f"K = {k} is not cut into {count} equal parts"
        self._mesh = self._mesh or weight.device_mesh
        return (
            Parts(groups, count)
            if weight.device_mesh == self._mesh
            else "its mesh of processes is another than that of a product before it"
        )


def read_whole(node: fx.Node) -> bool:
    """Return whether every reader of the DTensor ``node``, which is a part of a sum, asks for the sum first."""
    wholes = [user.op == "call_method" and user.target == "redistribute" and not _partial(user) for user in node.users]
    return bool(wholes) and all(wholes)


def _partial(node: fx.Node) -> bool:
    value = node.meta.get("example_value")
    return not dtensor.is_dtensor(value) or dtensor.dims(value) is None


def add_up(graph: fx.Graph, product: fx.Node, parts: Parts, bias: fx.Node | None) -> fx.Node:
    """Append the sum of ``product`` over the groups of ``parts``, and ``bias``, once, at the insertion point; returns the last node."""
    total = product
    note(product, parts=parts)
    for group in parts.groups:
        total = _call(graph, product, collectives.SUM, total, "sum", group)
        total = _call(graph, product, collectives.WAIT, total)
    if bias is not None:
        total = _call(graph, product, aten.add.Tensor, total, bias)
        note(total, bias=True)
    return total


def _call(graph: fx.Graph, like: fx.Node, target: Any, *args: Any) -> fx.Node:
    node = graph.call_function(target, args)
    node.meta = {**like.meta, "example_value": torch.empty_like(like.meta["example_value"])}  # of memory of its own
    note(node, parts=None)
    return node


def read_sum(product: fx.Node, parts: Parts, bias: Any) -> None:
    """Note that the model itself adds up the plain ``product`` over the groups of ``parts``, or why its scales cannot be shared.

    An all-reduce in place comes as a sum that is copied into the product: those who read that afterwards read the sum.
    """
    sums = [user for user in product.users if collectives.is_sum(user.target)]
    if len(parts.groups) != 1 or len(sums) != 1 or sums[0].args != (product, "sum", parts.groups[0]):
        note(product, apart="its parts are not added up by one all-reduce")
    elif bias is not None:
        note(product, apart="every process adds the bias to its part")
    elif _put_in_place(product, sums[0]):
        note(product, parts=parts)
    else:
        note(product, apart="its parts are read before they are added up")


def _put_in_place(product: fx.Node, summed: fx.Node) -> bool:
    """Let the sum have no copy; returns whether nobody else reads ``product`` then."""
    if len(product.users) == 1:
        return True
    (wait,) = summed.users if len(summed.users) == 1 else (None,)
    copies = [user for user in product.users if user.op == "call_method" and user.target == "copy_" and user.args == (product, wait)]
    if wait is None or len(copies) != 1 or not all(user in (summed, copies[0]) or user > copies[0] for user in product.users):
        return False
    copies[0].replace_all_uses_with(wait)
    product.graph.erase_node(copies[0])
    product.replace_all_uses_with(wait, delete_user_cb=lambda user: user is not summed)
    return True
