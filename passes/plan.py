"""Decide for each linear which formats it gets, for each softmax and attention whether it becomes our op, or why not."""

import difflib
import re
from collections.abc import Iterable, Sequence

import networkx as nx
from torch import fx

from lowbit_compiler.errors import OptionError
from lowbit_compiler.passes.contract import Fact, Pass, PassContext
from lowbit_compiler.passes.graph import aten, calls, is_tensor, value
from lowbit_compiler.passes.notes import notes
from lowbit_compiler.passes.parts import share
from lowbit_compiler.passes.price import price
from lowbit_compiler.passes.site import Declined, Found, Reason, Site, Whole
from lowbit_compiler.passes.stored import stored
from lowbit_compiler.passes.whole import decide, read_attention, read_softmax
from lowbit_compiler.recipes import Recipe
from lowbit_compiler.runtime.ops import MOST_DIMS
from lowbit_compiler.runtime.products import Plan

MIN_K, MIN_N = 32, 16  # below, one panel is mostly padding and the call costs more than the product


class PlanSites(Pass):
    """A plan or a reason for every site; the graph is unchanged.

    Before and after::

        %y = aten.linear(%x, %w)        # site: W8A8 rotation, or declined: "slower here"
        %p = aten.softmax(%s, -1)       # site: lowbit::softmax, or declined: "slower here"
    """

    name = "plan"
    requires = frozenset({Fact.FOUND})
    establishes = frozenset({Fact.PLANNED})

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Set ``plan`` or ``reason`` of every site; rewrites nothing."""
        check_patterns(ctx)
        candidates = [site for site in ctx.sites if site.reason is None]
        head = output_head(gm, [site for site in candidates if site.kind == "linear"])
        for site in candidates:
            ctx.at = site.node
            plan = _decide(ctx, site, site in head)
            if isinstance(plan, tuple):
                site.decline(*plan)
            else:
                site.take(plan)
        ctx.at = None
        scales = {
            site: share(site) for site in candidates
        }  # before products are priced: shared scales are not left to what one process measures
        price(ctx)
        taken = [site for site in candidates if site.reason is None]
        for site in taken[len(taken) if ctx.max_rewrites is None else ctx.max_rewrites :]:
            site.decline(Reason.LIMIT, f"limit {ctx.max_rewrites}")
        for site in candidates:
            if what := notes(site.node).unfused or (scales[site] if site.plan is not None else ""):
                site.explain(site.detail, what)
        return 0


def ignored(ctx: PassContext, *names: str) -> str | None:
    """Return the user's pattern that names one of ``names``."""
    return _first(ctx, ctx.ignore, names)


def _first(ctx: PassContext, patterns: Iterable[str], names: Iterable[str]) -> str | None:
    """Return the first of ``patterns`` that names one of ``names``, by any name that the model has for it."""
    every = [name for first in names for name in (first, *ctx.other_names.get(first, ()))]
    return first_match(patterns, every)


def _decide(ctx: PassContext, site: Site, head: bool) -> Plan | Whole | Declined:
    pattern = ignored(ctx, site.module, *site.found.parameters)
    if pattern is not None:
        return Reason.FILTERED, f"ignore {pattern!r}"
    dims = max(value(node).dim() for node in site.node.all_input_nodes if is_tensor(node))
    if dims > MOST_DIMS:
        return Reason.UNSUPPORTED_OP, f"{dims} dimensions; up to {MOST_DIMS}"
    return _linear(ctx, site.node, site.found, head) if site.kind == "linear" else _whole(ctx, site)


def _linear(ctx: PassContext, node: fx.Node, site: Found, head: bool) -> Plan | Declined:
    if site.table and not ctx.quantize_tables:
        return Reason.TABLE, f"{', '.join(site.parameters)}: no nn.Parameter; options={{'buffers': 'quantized'}} takes it for a weight"
    if (small := too_small(site)) is not None:
        return small
    plan = _with_its_own_word(ctx, site) or (ctx.recipe.head_plan if head else ctx.recipe.plan)
    if (low := stored(node.args[1], ctx.parameters)) is not None:  # type: ignore[arg-type]
        plan = (plan or ctx.recipe.plan).taking(low.operand, low.treatment)
    longest = (plan or ctx.recipe.plan).product
    if longest is not None and longest.largest_k is not None and site.k > longest.largest_k:
        return Reason.TOO_LONG, f"K = {site.k}; up to {longest.largest_k}"
    return plan or (Reason.OUTPUT_HEAD, f"recipe {ctx.recipe.name!r} has head='float'")


def too_small(site: Found) -> Declined | None:
    """Return why a linear is left alone that is not worth the call."""
    if site.k < MIN_K or site.n < MIN_N:
        return Reason.TOO_SMALL, f"K = {site.k}, N = {site.n}; from K = {MIN_K}, N = {MIN_N} on"
    return None


def _with_its_own_word(ctx: PassContext, site: Found) -> Plan | None:
    """Return the plan with the word that the recipe has for the weights of this product; None where it has none."""
    names = [name for first in (site.module, *site.parameters) for name in (first, *ctx.other_names.get(first, ()))]
    return plan_of(ctx.recipe, names)


def _whole(ctx: PassContext, site: Site) -> Whole | Declined:
    if not ctx.target.attention and notes(site.node).unfused:
        return Reason.NO_KERNEL, "a softmax of ours would keep Inductor from making one attention of it"
    found = read_softmax(site.node, ctx) if site.kind == "softmax" else read_attention(site.node, ctx)
    return found if isinstance(found, tuple) else decide(ctx, found.call())


def output_head(gm: fx.GraphModule, candidates: list[Site]) -> list[Site]:
    """Return the linears that map hidden states to a vocabulary: tied to an embedding, or wide and last.

    As in transformers, the head is what shares its weight with an embedding table; where nothing is tied, a product from which no
    other is reached, here only if it widens (N >= 4 K and N >= 4096): the last layer of an encoder is no head.
    """
    embeddings = {_embedding_table(node) for node in gm.graph.nodes} - {None}
    tied = [site for site in candidates if site.node.args[1] in embeddings]
    if tied:
        return tied
    products = {site.node for site in candidates}
    flow = nx.DiGraph((source, node) for node in gm.graph.nodes for source in node.all_input_nodes)
    wide = [site for site in candidates if site.found.n >= 4 * site.found.k and site.found.n >= 4096]
    return [site for site in wide if products.isdisjoint(nx.descendants(flow, site.node))]


def _embedding_table(node: fx.Node) -> object:
    """Return the table that an embedding reads; None for any other node."""
    if calls(node, aten.embedding.default):
        return node.args[0]
    if node.op == "call_function" and getattr(node.target, "__name__", "") == "embedding":
        return node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
    return None


def plan_of(recipe: Recipe, names: Sequence[str]) -> Plan | None:
    """Return the plan with the word that ``sites`` of ``recipe`` has for the weights of a product of these names; None where it has none."""
    words = dict(recipe.sites)
    pattern = first_match(words, names)
    return None if pattern is None else recipe.plan_with(words[pattern])


def first_match(patterns: Iterable[str], names: Sequence[str]) -> str | None:
    """Return the first of ``patterns`` that names one of ``names``."""
    return next((pattern for pattern in patterns if any(matches(pattern, name) for name in names)), None)


def matches(pattern: str, name: str) -> bool:
    """Return whether ``pattern`` names ``name``: a regular expression after "re:", else a run of its dotted components."""
    if pattern.startswith("re:"):
        return re.search(pattern[3:], name) is not None
    parts, wanted = name.split("."), pattern.split(".")
    return any(parts[i : i + len(wanted)] == wanted for i in range(len(parts) - len(wanted) + 1))


def check_patterns(ctx: PassContext) -> None:
    """Raise OptionError where a pattern names nothing in the model, as far as that can be told."""
    asked = [("ignore", pattern) for pattern in ctx.ignore]
    asked += [(f"recipe {ctx.recipe.name!r}: sites:", pattern) for pattern, _ in ctx.recipe.sites]
    if not ctx.all_known or not asked:
        return
    names = {name for site in ctx.sites for name in (site.module, *site.found.parameters) if name}
    names |= ctx.known_names | set(ctx.parameters.values())
    for what, pattern in asked:
        if not any(matches(pattern, name) for name in names):
            near = difflib.get_close_matches(pattern, [part for name in names for part in (name, name.rpartition(".")[2])], 3)
            hint = f"; close: {', '.join(dict.fromkeys(near))}" if near else ""
            raise OptionError(f"{what} {pattern!r} matches no module or parameter of the model ({len(names)} names){hint}")
