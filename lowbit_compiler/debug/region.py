"""The part of a graph that one pass made of one site, as text, before and after."""

import contextlib
import difflib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from lowbit_compiler.capture.captured import Captured
from lowbit_compiler.driver import rewrite
from lowbit_compiler.dump import graph_text
from lowbit_compiler.options import Options
from lowbit_compiler.passes.calls import hint
from lowbit_compiler.passes.contract import PassContext
from lowbit_compiler.passes.find import Find
from lowbit_compiler.passes.site import Site
from lowbit_compiler.report import SiteReport, site_report
from lowbit_compiler.verify import sqnr

EXACT_SQNR = 20.0
"""dB; before anything is quantized a graph differs by rounding alone, in a deep bfloat16 model by some 30 dB."""


@dataclass(frozen=True)
class Region:
    """Typed text of the nodes around a site; ``site`` is set where comparing values node by node found one."""

    before: str
    after: str
    site: SiteReport | None = None
    source: str = ""
    """Line of the user's code that the site comes from."""

    @property
    def difference(self) -> str:
        """The unified diff of both texts."""
        lines = difflib.unified_diff(self.before.splitlines(), self.after.splitlines(), "before", "after", n=2, lineterm="")
        return "\n".join(lines) + "\n"


def region(copies: tuple[Captured, Captured], examples: Sequence[Any], options: tuple[Options, Options], index: int | None) -> Region:
    """Return the region of site number ``index`` in two copies of a graph, rewritten as the two ``options`` say.

    Without an index (the pass comes before the plan) the values of both graphs are compared node by node. Where the second rewriting
    raises, its text is that of the graph as the pass left it.
    """
    before, after = copies
    old, _ = rewrite(before, options[0], examples)
    new: PassContext | None = None
    try:
        new, _ = rewrite(after, options[1], examples)
    except Exception as error:
        failure = f"# {type(error).__name__}: {error}\n"
    else:
        failure = ""
    if index is None:
        changed = _changed(before.gm, after.gm)
        node = None if new is None else _first_difference(before.gm, after.gm, examples)
        found = None if node is None or new is None else _nearest(node, after.gm, new, str(options[1].stop_after))
        return Region(
            _text(before.gm, changed), _text(after.gm, changed) + failure, None if found is None else site_report(found), source(node)
        )
    nodes = [old.sites[index].node]
    names = _around(nodes[0])
    if new is not None:
        nodes.append(new.sites[index].node)
        names |= _around(nodes[1])
    return Region(_text(before.gm, names), _text(after.gm, names) + failure, None, source(nodes[-1]))


def source(node: fx.Node | None) -> str:
    """Return the last line of the user's code in the stack of a node ("" where there is none)."""
    lines = [] if node is None else (node.meta.get("stack_trace") or "").strip().splitlines()
    place = next((line.strip() for line in reversed(lines) if line.strip().startswith("File ")), "")
    return place.removeprefix("File ").rpartition(", in ")[0].replace('"', "")


def _around(site: fx.Node) -> set[str]:
    """Return the names of a site's node, of all that passes made around it, and of what that reads."""
    made, todo = {site}, [site]
    while todo:
        node = todo.pop()
        for other in (*node.all_input_nodes, *node.users):
            if other not in made and "lowbit_pass" in other.meta and other.op != "placeholder" and not _is_site(other):
                made.add(other)
                todo.append(other)
    return {node.name for node in made} | {arg.name for node in made for arg in node.all_input_nodes}


def _is_site(node: fx.Node) -> bool:
    return str(node.target).startswith(("aten.linear", "lowbit.linear", "lowbit.sdpa", "lowbit.softmax"))


def _text(gm: fx.GraphModule, names: Collection[str]) -> str:
    lines = [line for line in graph_text(gm).splitlines() if line.startswith("%") and line[1:].partition(" ")[0] in names]
    return "\n".join(lines) + "\n"


def _changed(before: fx.GraphModule, after: fx.GraphModule) -> set[str]:
    """Return the names of nodes that only one graph has or that read something else, and of what they read."""
    old, new = ({node.name: node for node in gm.graph.nodes} for gm in (before, after))

    def inputs(node: fx.Node) -> list[str]:
        return [arg.name for arg in node.all_input_nodes]

    differing = [name for name in old.keys() | new.keys() if name not in old or name not in new or inputs(old[name]) != inputs(new[name])]
    nodes = [graph[name] for name in differing for graph in (old, new) if name in graph]
    return {node.name for node in nodes} | {name for node in nodes for name in inputs(node)}


class _Keeping(fx.Interpreter):
    """Keeps every floating-point value, and the node that it is at."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(fx.GraphModule(gm, gm.graph))
        self.values: dict[str, Tensor] = {}
        self.failed: str = ""

    def run_node(self, n: fx.Node) -> Any:
        try:
            result = super().run_node(n)
        except Exception:
            self.failed = n.name
            raise
        if isinstance(result, Tensor) and result.is_floating_point() and n.op != "placeholder":
            self.values[n.name] = result.clone()
        return result


def _first_difference(before: fx.GraphModule, after: fx.GraphModule, examples: Sequence[Any]) -> fx.Node | None:
    """Return the first node of ``after`` that raises, or that ``before`` has too with another value; None where there is none."""
    values = [hint(example) if isinstance(example, torch.SymInt) else example for example in examples]
    byname = dict(zip([node.name for node in before.graph.find_nodes(op="placeholder")], values, strict=True))
    old, new = _Keeping(before), _Keeping(after)
    for gm, run in ((before, old), (after, new)):
        with torch.no_grad(), contextlib.suppress(Exception):  # what raised is in ``failed``
            run.run(*(byname[node.name] for node in gm.graph.find_nodes(op="placeholder")))
    nodes: list[fx.Node] = list(after.graph.nodes)
    for node in nodes:
        if node.name == new.failed:
            return node
        if node.name in old.values and node.name in new.values and not _same(new.values[node.name], old.values[node.name]):
            return node
    return None


def _same(got: Tensor, want: Tensor) -> bool:
    return got.shape == want.shape and (want.numel() == 0 or sqnr(got, want) >= EXACT_SQNR)


def _nearest(node: fx.Node, gm: fx.GraphModule, ctx: PassContext, name: str) -> Site | None:
    """Return the site that pass ``name`` spoiled, where ``node`` is the first to show it: that of the nearest node that the pass made."""
    if not ctx.sites:  # the pass comes before the one that lists them
        Find().run(gm, ctx)
    sites = {site.node: site for site in ctx.sites}
    made = next((other for other in _upward(node) if other.meta.get("lowbit_pass") == name), node)
    return next((sites[other] for other in _upward(made) if other in sites), None)


def _upward(node: fx.Node) -> Iterator[fx.Node]:
    """Yield ``node`` and all that it is computed from, nearest first."""
    seen, todo = {node}, [node]
    for current in todo:
        yield current
        for arg in current.all_input_nodes:
            if arg not in seen:
                seen.add(arg)
                todo.append(arg)
