"""AOTAutograd: which inputs of a graph it takes for weights, and the joint graph that it traces of forward and backward."""

from collections.abc import Collection, Sequence
from typing import Any

from torch import fx


def joint_graph(gm: fx.GraphModule, examples: Sequence[Any]) -> fx.GraphModule | None:
    """Return the graph of ``gm`` and its backward pass, before it is cut in two; None where nothing needs a gradient."""
    from torch._functorch.aot_autograd import aot_module_simplified
    from torch._functorch.partitioners import default_partition

    found: list[fx.GraphModule] = []

    def partition(joint: fx.GraphModule, inputs: Sequence[Any], **settings: Any) -> Any:
        copy, memo = fx.Graph(), dict[fx.Node, fx.Node]()
        copy.graph_copy(joint.graph, memo)
        copy.output(fx.map_arg(joint.graph.output_node().args[0], memo.__getitem__))
        found.append(fx.GraphModule(joint, copy))
        return default_partition(joint, inputs, **settings)

    def as_it_is(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Any:
        return gm.forward

    aot_module_simplified(gm, list(examples), fw_compiler=as_it_is, bw_compiler=as_it_is, partition_fn=partition)
    return found[0] if found else None


def mark_static(gm: fx.GraphModule, weights: Collection[str]) -> None:
    """Tell AOTAutograd which placeholders stay where they are, in the words of Dynamo: CUDA graphs would copy them before each replay."""
    from torch._dynamo.source import LocalSource

    gm.meta.setdefault("dynamo_compile_id", None)
    gm._param_name_to_source = {}  # type: ignore[assignment]
    for node in gm.graph.find_nodes(op="placeholder"):
        node._dynamo_source = LocalSource(node.name)
        if node.name in weights:
            node.meta["tensor_dict"] = {**node.meta.get("tensor_dict", {}), "_dynamo_static_input_type": "unguarded"}
