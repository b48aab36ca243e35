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
        found.append(fx.GraphModule(joint, fx.Graph()))
        found[-1].graph.graph_copy(joint.graph, memo := {})  # type: ignore[arg-type]
        found[-1].graph.output(fx.map_arg(joint.graph.output_node().args[0], memo.__getitem__))
        return default_partition(joint, inputs, **settings)

    def as_it_is(part: fx.GraphModule, _: Sequence[Any]) -> Any:
        return part.forward

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
