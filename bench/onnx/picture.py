"""Draw the graph of one exported linear with LLM.int8() as docs/onnx_llm_int8.png: python bench/onnx/picture.py"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import networkx as nx
import onnx
import torch
from torch import nn

import lowbit_compiler as lowbit
from lowbit_compiler.recipes import Recipe

OUT = Path(__file__).resolve().parents[2] / "docs" / "onnx_llm_int8.png"
COLOURS = {
    "hit_columns": ("#f6c28b", "which columns hold outliers"),
    "masked_fill": ("#f6c28b", ""),
    "product_columns": ("#f08a6c", "exact product of those columns"),
    "quantize_unsigned": ("#a9cce3", "quantize each row of the rest"),
    "product_u8s8": ("#5d9bd1", "integer product"),
    "": ("#e3e3e3", "scales, sum, bias"),
}


def graph() -> nx.DiGraph:
    """Export one linear and return its nodes with operator, op and place."""
    model = nn.Linear(576, 1536).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        recipe = Recipe("llm-int8", treatment="columns", head="same")
        lowbit.export_onnx(model, torch.randn(4, 576), path, recipe=recipe, dynamic_shapes=({0: "rows"},))
        proto = onnx.load(str(path)).graph
    drawn = nx.DiGraph()
    made = {proto.input[0].name: "x"}
    drawn.add_node("x", operator="x", op="input")
    for node in proto.node:
        op = next((entry.value for entry in node.metadata_props if entry.key == "lowbit.op"), "")
        drawn.add_node(node.name, operator=node.op_type, op=op if op in COLOURS else "")
        drawn.add_edges_from((made[name], node.name) for name in node.input if name in made)
        made.update(dict.fromkeys(node.output, node.name))
    drawn.add_node("y", operator="y", op="input")
    drawn.add_edge(made[proto.output[0].name], "y")
    return drawn


def main() -> None:
    """Lay the graph out in layers by the longest path from the input, and write the picture."""
    drawn = graph()
    layer = {name: 0 for name in drawn}
    for name in nx.topological_sort(drawn):
        for after in drawn.successors(name):
            layer[after] = max(layer[after], layer[name] + 1)
    nx.set_node_attributes(drawn, layer, "layer")
    places = nx.multipartite_layout(drawn, subset_key="layer", scale=1.0)
    figure, axes = plt.subplots(figsize=(19, 6))
    nx.draw_networkx_edges(drawn, places, ax=axes, edge_color="#999999", arrowsize=9, node_size=1200)
    for name, (x, y) in places.items():
        data = drawn.nodes[name]
        colour = "white" if data["op"] == "input" else COLOURS[data["op"]][0]
        style = {"boxstyle": "round,pad=0.35", "facecolor": colour, "edgecolor": "#444444", "linewidth": 0.7}
        axes.text(x, y, data["operator"], ha="center", va="center", fontsize=7.5, rotation=35, bbox=style)
    for colour, meaning in COLOURS.values():
        if meaning:
            axes.scatter([], [], color=colour, label=meaning, marker="s", s=90)
    axes.legend(loc="upper center", ncols=5, frameon=False, fontsize=9, bbox_to_anchor=(0.5, 1.08))
    axes.set_axis_off()
    axes.margins(0.04, 0.12)
    figure.savefig(OUT, dpi=130, bbox_inches="tight")
    print(OUT)


if __name__ == "__main__":
    main()
