"""One module or site of a compilation as a picture: its nodes and their neighbours, in Graphviz's language, and as SVG where it is there."""

import shutil
import subprocess
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import networkx as nx

from lowbit_compiler.dump.diff import file_name
from lowbit_compiler.dump.record import Record
from lowbit_compiler.errors import OptionError
from lowbit_compiler.graph_text import Node
from lowbit_compiler.runtime.files import write

COLORS = ("#f6d5d2", "#f8dfc4", "#efe6bd", "#dcebc5", "#c9eedd", "#c5ebf0", "#cfe0f7", "#dcd8f8", "#ecd6f3", "#f6d3e6")


def stage_graph(nodes: Sequence[Node]) -> nx.DiGraph:
    """Return a stage as a graph of node names, with an edge from each value to its readers."""
    graph = nx.DiGraph()
    for node in nodes:
        graph.add_node(node.name, node=node)
    graph.add_edges_from((given, node.name) for node in nodes for given in node.inputs)
    return graph


def region(record: Record, stage: int, name: str) -> nx.DiGraph:
    """Return the nodes of module (or node) ``name`` with the values they read and their readers; empty where it is not there.

    Nodes of the region itself have ``inside`` set; the neighbours do not.
    """
    graph = stage_graph(record.nodes_of(stage))
    inside = {key for key, node in graph.nodes(data="node") if key == name or _within(node.module, name)}
    for site, place in zip(record.sites, record.stages[stage].sites, strict=False):  # none while sites are not known
        if place is not None and _within(site.module, name):
            inside.add(record.nodes[place].name)
    neighbours = {other for key in inside for other in (*graph.predecessors(key), *graph.successors(key))}
    part = graph.subgraph(inside | neighbours).copy()
    nx.set_node_attributes(part, {key: key in inside for key in part}, "inside")
    part.remove_edges_from([(a, b) for a, b in part.edges if a not in inside and b not in inside])
    return part


def dot(part: nx.DiGraph, title: str) -> str:
    """Return a region in Graphviz's language; what a pass made is coloured and says so."""
    makers = sorted({node.made_by for _, node in part.nodes(data="node") if node.made_by})
    lines = [
        f"digraph {_quoted(title)} {{",
        f"  label={_quoted(title)}; labelloc=t; fontname=Helvetica; rankdir=TB; bgcolor=white;",
        '  node [shape=box, style="rounded,filled", fillcolor=white, color="#999999", fontname="monospace", fontsize=10];',
        '  edge [color="#999999", arrowsize=0.6];',
    ]
    for name, data in part.nodes(data=True):
        node = data["node"]
        op = node.parameter or (name if node.op == "placeholder" else node.target)
        label = "\n".join(part for part in (op, node.type, f"made by {node.made_by}" if node.made_by else "") if part)
        style = f", fillcolor={_quoted(COLORS[makers.index(node.made_by) % len(COLORS)])}" if node.made_by and data["inside"] else ""
        style += "" if data["inside"] else ', style="rounded,dashed", fontcolor="#777777"'
        lines.append(f"  {_quoted(name)} [label={_quoted(label)}{style}];")
    lines += [f"  {_quoted(a)} -> {_quoted(b)};" for a, b in part.edges]
    return "\n".join([*lines, "}", ""])


def draw(folder: Path, record: Record, name: str) -> list[Path]:
    """Write the region ``name`` as captured and as it is in the end, and return the files: SVG too where Graphviz is there."""
    written = []
    for stage in (0, len(record.stages) - 1):
        part = region(record, stage, name)
        if not len(part):
            continue
        text = dot(part, f"{name}, {record.stages[stage].name}")
        path = folder / "regions" / f"{_file(name)}_{file_name(record, stage, 'dot')}"
        write(path, text)
        written.append(path)
        if program := shutil.which("dot"):
            drawn = subprocess.run([program, "-Tsvg"], input=text, capture_output=True, text=True, check=True)
            write(path.with_suffix(".svg"), drawn.stdout)
            written.append(path.with_suffix(".svg"))
    return written


def require(records: Sequence[Record], name: str) -> None:
    """Raise OptionError, with names that are near, where no graph has a module, site or node called ``name``."""
    modules = {path for record in records for path in (*record.modules, *(site.module for site in record.sites)) if path}
    parts = {".".join(path.split(".")[:end]) for path in modules for end in range(1, path.count(".") + 2)}
    nodes = {node.name for record in records for node in record.nodes}
    if name in parts | nodes:
        return
    last = get_close_matches(name.rpartition(".")[2], {path.rpartition(".")[2] for path in parts}, 1)
    tails = [path for path in sorted(parts) if path.rpartition(".")[2] in last]
    near = [*get_close_matches(name, parts, 3), *tails[:3], *get_close_matches(name, nodes, 2)]
    example = next(iter(sorted(parts or nodes)), "")
    hint = f"did you mean {', '.join(map(repr, dict.fromkeys(near)))}?" if near else f"give a module, as {example!r}, or a node"
    raise OptionError(f"no module, site or node {name!r} in this model; {hint}")


def _within(module: str, name: str) -> bool:
    return module == name or module.startswith(f"{name}.")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _file(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in ".-_" else "_" for letter in name)
