"""Draw who may import what, from the table in tests/repo/test_layering.py, as docs/layers.png: python bench/layers/picture.py"""

import ast
import hashlib
import re
import sys
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import networkx as nx

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "repo"))
from test_layering import ALLOWED, _meant, _module

OUT = ROOT / "docs" / "layers.png"
EVERYBODYS = ("errors", "torch_internals")
WIDTH, HEIGHT, ACROSS, DOWN = 2.75, 0.94, 2.95, 1.3  # inches: of a box, and from one to the next
COLOURS = {
    "runtime": "#d9ead3",
    "passes": "#fff2cc",
    "recipes": "#d9ead3",
    "exits": "#f8d9c0",
    "compile": "#f8d9c0",
    "capture": "#f8d9c0",
    "debug": "#e4dff0",
    "profiling": "#e4dff0",
    "demo": "#e4dff0",
    "dump": "#e4dff0",
}


def drawn() -> nx.DiGraph:
    """Return the rows of the table; an edge says that one may import the other, but for what follows from other edges."""
    table = nx.DiGraph([(row, meant) for row, entries in ALLOWED.items() for entry in entries for meant in _meant(row, entry)])
    table.remove_nodes_from(EVERYBODYS)
    reduced: nx.DiGraph = nx.transitive_reduction(table)
    return reduced


def rows_of(graph: nx.DiGraph) -> list[list[str]]:
    """Return the nodes row by row from the top, and the names of edges where they pass a row; neighbours stand near each other.

    A node is in the row above what it imports; what imports nothing, just below the lowest of those who import it.
    """
    height: dict[str, int] = {}
    for node in reversed(list(nx.topological_sort(graph))):
        height[node] = max((height[after] + 1 for after in graph.successors(node)), default=0)
    for node in nx.topological_sort(graph):
        height[node] = min((height[before] for before in graph.predecessors(node)), default=height[node] + 1) - 1
    for before, after in list(graph.edges):  # what is between takes a place of its own
        graph.remove_edge(before, after)
        between = [f"{before} -> {after} {level}" for level in range(height[before] - 1, height[after], -1)]
        height |= {name: height[before] - 1 - index for index, name in enumerate(between)}
        nx.add_path(graph, [before, *between, after])
    rows = [[node for node in graph if height[node] == level] for level in range(max(height.values()), -1, -1)]
    place: dict[str, float] = {}
    for row in rows:
        row.sort(key=lambda node: _mean([place[before] for before in graph.predecessors(node)]))
        place |= {node: index - (len(row) - 1) / 2 for index, node in enumerate(row)}
    return rows


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def idea(row: str) -> str:
    """Return the first sentence of what a folder or file says of itself."""
    for folder in ("lowbit_compiler", "passes", "runtime"):
        for path in (ROOT / folder).rglob("*.py"):
            if _module(path) == tuple(filter(None, row.split("."))):
                text = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]
                return re.sub("``|\\.$", "", text)
    raise ValueError(f"no file for the row {row!r}")


def box(axes: plt.Axes, x: float, y: float, row: str, width: float = WIDTH) -> None:
    """Draw a row's box with its name and idea, centred at ``x``, ``y``."""
    colour = COLOURS.get(row.partition(".")[0], "#eeeeee")
    axes.add_patch(
        plt.Rectangle((x - width / 2, y - HEIGHT / 2), width, HEIGHT, facecolor=colour, edgecolor="#555555", linewidth=0.8, zorder=2)
    )
    name = row.replace(".", "/") or "lowbit_compiler"
    axes.text(x, y + 0.31, name, ha="center", va="center", fontsize=12, fontweight="bold", zorder=3)
    lines = textwrap.wrap(idea(row), round(width * 13))
    axes.text(x, y - 0.13, "\n".join(lines), ha="center", va="center", fontsize=8 if len(lines) > 3 else 9, linespacing=1.1, zorder=3)


def main() -> None:
    """Write the picture; its metadata tell which table it was drawn from (tests/repo/test_docs.py compares)."""
    graph = drawn()
    rows = rows_of(graph)
    widest = max(map(len, rows))
    figure = plt.figure(figsize=(widest * ACROSS, len(rows) * DOWN + 2 * HEIGHT))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    places = {
        node: ((index - (len(row) - 1) / 2) * ACROSS, -level * DOWN) for level, row in enumerate(rows) for index, node in enumerate(row)
    }
    for before, after in graph.edges:
        (x, y), (u, v) = places[before], places[after]
        style = {"arrowstyle": "-" if "->" in after else "-|>", "color": "#888888", "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (u, v + HEIGHT / 2), (x, y - HEIGHT / 2), arrowprops=style, zorder=1)
    for node, (x, y) in places.items():
        if "->" in node:
            axes.plot([x, x], [y - HEIGHT / 2, y + HEIGHT / 2], color="#888888", linewidth=1, zorder=1)
        else:
            box(axes, x, y, node)
    for index, row in enumerate(EVERYBODYS):
        box(axes, (index - 0.5) * 2 * ACROSS, -len(rows) * DOWN, row, width=2 * ACROSS - 0.3)
    axes.set_xlim(-widest * ACROSS / 2, widest * ACROSS / 2)
    axes.set_ylim(-len(rows) * DOWN - HEIGHT, HEIGHT)
    axes.set_axis_off()
    digest = hashlib.sha256(repr(ALLOWED).encode()).hexdigest()
    figure.savefig(OUT, dpi=75, metadata={"Description": f"table {digest}"})
    print(OUT)


if __name__ == "__main__":
    main()
