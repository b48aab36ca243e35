"""The part of a graph that one pass made of one site, as text, before and after."""

import contextlib
import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from lowbit_compiler.capture.captured import Captured
from lowbit_compiler.compile.rewrite import rewrite
from lowbit_compiler.compile.verify import SAME_SQNR, inputs_of, interpret, sqnr
from lowbit_compiler.graph_text import graph_text
from lowbit_compiler.options import Options
from lowbit_compiler.passes.contract import PassContext
from lowbit_compiler.passes.find import Find
from lowbit_compiler.passes.notes import notes
from lowbit_compiler.passes.site import Site
from lowbit_compiler.report import SiteReport, site_report
from lowbit_compiler.torch_internals.trees import tree_leaves


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
    nodes = [old.sites[index].call]
    names = _around(nodes[0], old)
    if new is not None:
        nodes.append(new.sites[index].call)
        names |= _around(nodes[1], new)
    return Region(_text(before.gm, names), _text(after.gm, names) + failure, None, source(nodes[-1]))


def source(node: fx.Node | None) -> str:
    """Return the last line of the user's code in the stack of a node ("" where there is none)."""
    lines = [] if node is None else (node.meta.get("stack_trace") or "").strip().splitlines()
    place = next((line.strip() for line in reversed(lines) if line.strip().startswith("File ")), "")
    return place.removeprefix("File ").rpartition(", in ")[0].replace('"', "")


def _around(site: fx.Node, ctx: PassContext) -> set[str]:
    """Return the names of a site's node, of all that passes made around it up to other sites, and of what that reads."""
    sites = {each.call for each in ctx.sites}
    made, todo = {site}, [site]
    while todo:
        node = todo.pop()
        for other in (*node.all_input_nodes, *node.users):
            if other not in made and notes(other).made_by and other.op != "placeholder" and other not in sites:
                made.add(other)
                todo.append(other)
    return {node.name for node in made} | {arg.name for node in made for arg in node.all_input_nodes}


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
    """Keeps every floating-point value: of nodes by their name, of outputs by their place."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(fx.GraphModule(gm, gm.graph))
        self.values: dict[str | int, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.values.update((key, value.clone()) for key, _, value in _floats(n, result))
        return result


class _Comparing(fx.Interpreter):
    """Finds the first node that raises, or whose value is not that in ``wanted``."""

    def __init__(self, gm: fx.GraphModule, wanted: Mapping[str | int, Tensor]) -> None:
        super().__init__(fx.GraphModule(gm, gm.graph))
        self.wanted = wanted
        self.found: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        try:
            result = super().run_node(n)
        except Exception:
            self.found = self.found or n
            raise
        if self.found is None:
            values = _floats(n, result)
            self.found = next((node for key, node, x in values if key in self.wanted and not _same(x, self.wanted[key])), None)
        return result


def _floats(node: fx.Node, result: Any) -> Iterator[tuple[str | int, fx.Node, Tensor]]:
    """Yield the floating-point values of a node, each with the node that computed it; an output's stands under its place."""
    pairs = zip(tree_leaves(node.args[0]), tree_leaves(result), strict=True) if node.op == "output" else [(node, result)]
    for place, (maker, value) in enumerate(pairs):
        if isinstance(value, Tensor) and value.is_floating_point() and maker.op != "placeholder":
            yield place if node.op == "output" else node.name, maker, value


def _first_difference(before: fx.GraphModule, after: fx.GraphModule, examples: Sequence[Any]) -> fx.Node | None:
    """Return the first node of ``after`` that raises, or that ``before`` has too with another value; None where there is none.

    Where a pass changed the last product alone, the outputs differ and no node that both graphs have.
    """
    inputs = inputs_of(before, examples)
    old = _Keeping(before)
    new = _Comparing(after, old.values)
    for run in (old, new):
        with contextlib.suppress(Exception):  # what raised is in ``found``
            interpret(run, inputs)
    return new.found


def _same(got: Tensor, want: Tensor) -> bool:
    return got.shape == want.shape and (want.numel() == 0 or sqnr(got, want) >= SAME_SQNR)


def _nearest(node: fx.Node, gm: fx.GraphModule, ctx: PassContext, name: str) -> Site | None:
    """Return the site that pass ``name`` spoiled, where ``node`` is the first to show it: that of the nearest node that the pass made."""
    if not ctx.sites:  # the pass comes before the one that lists them
        Find().run(gm, ctx)
    sites = {site.call: site for site in ctx.sites}
    made = next((other for other in _upward(node) if notes(other).made_by == name), node)
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
