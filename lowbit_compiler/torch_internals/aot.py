"""Which inputs of a graph AOTAutograd takes for weights."""

from collections.abc import Collection

from torch import fx


def mark_static(gm: fx.GraphModule, weights: Collection[str]) -> None:
    """Tell AOTAutograd which placeholders stay where they are, in the words of Dynamo: CUDA graphs would copy them before each replay."""
    from torch._dynamo.source import LocalSource

    gm.meta.setdefault("dynamo_compile_id", None)
    gm._param_name_to_source = {}  # type: ignore[assignment]
    for node in gm.graph.find_nodes(op="placeholder"):
        node._dynamo_source = LocalSource(node.name)
        if node.name in weights:
            node.meta["tensor_dict"] = {**node.meta.get("tensor_dict", {}), "_dynamo_static_input_type": "unguarded"}
