"""Products that follow one another, with the sums and norms between them, in one call."""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from lowbit_compiler.passes.contract import FLOATS, Fact, Pass, PassContext
from lowbit_compiler.passes.graph import (
    aten,
    calls,
    copied,
    emit,
    erase_unused,
    is_tensor,
    same,
    same_shape,
    substitute,
    undisturbed,
    value,
)
from lowbit_compiler.passes.layout import laid_out
from lowbit_compiler.passes.notes import notes
from lowbit_compiler.passes.prologue import Prologue, activation, normalization
from lowbit_compiler.passes.spell import cast, idle_dropout, name_of
from lowbit_compiler.runtime.chain import FUNCTION, LINEARS, MOST_KEPT, MOST_STEPS, NONE, Kind, Step, encode

ops = torch.ops.lowbit
NUMBERS = {getattr(ops, name).default: number for number, name in enumerate(LINEARS)}


class ChainSteps(Pass):
    """Let one op take rows through several products and what lies between them.

    A call of its own costs a product of one row as much as its weights do: the dispatcher, generated Python, threads that start and wait.

    Before::

        %o = lowbit.linear_s8s8_rotated(%a, %w, None, 576, None)
        %h = add(%x, %o)
        %g = lowbit.linear_s8s8_rotated(%h, %v, None, 3072, None, prologue="rms_norm", times=%gain, eps=1e-5)

    After::

        %c = lowbit.chain([%a, %x], [%w, %v, %gain], [...], [0.0, 0.0, 1e-5])
        %h = getitem(%c, 0)                                # where others read it too
        %g = getitem(%c, 1)

    The program of a chain (runtime/chain.py) gives the bits of the ops that it stands for; a norm between them is computed in float32 and
    rounded once.
    """

    name = "chain"
    requires = frozenset({Fact.LOWERED, Fact.PACKED})

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Join what follows a product directly; returns the number of chains."""
        if ctx.target.device != "cpu":
            return 0
        found: dict[fx.Node, _Chain] = {}
        for node in ctx.each(list(gm.graph.nodes)):
            link = _link(node)
            if link is None:
                continue
            before = [found[source] for source in map(_source, link.reads) if source in found]
            taken = next((chain for chain in before if chain.take(link)), None)
            if taken is not None or link.kind == Kind.PRODUCT:
                found[node] = taken or _Chain([node])
        chains = {id(chain): chain.members for chain in found.values() if len(chain.members) > 1}
        written = 0
        for members in chains.values():
            ctx.at = members[-1]
            written += _write(gm, ctx, members)
        ctx.at = None
        return written


@dataclass
class _Link:
    """A node that may be a step, with the operands that are rows."""

    node: fx.Node
    kind: Kind
    reads: list[fx.Node]
    prologue: Prologue


@dataclass
class _Chain:
    """Steps that follow one another in the graph."""

    members: list[fx.Node]

    def take(self, link: _Link) -> bool:
        """Add ``link`` where the chain can be computed as late as that: nobody else needs its values before."""
        members = {*self.members, link.node}
        if len(members) > MOST_STEPS or not same_shape(_leading(link.node), _leading(self.members[0])):
            return False
        if any(reader < link.node for member in self.members for reader in _readers(member) - members):
            return False
        if any(view < link.node and not _readers(view) <= members for view in _views(self.members)):
            return False
        if not undisturbed(self.members[0], link.node, members):
            return False
        self.members.append(link.node)
        return True


def _leading(node: fx.Node) -> tuple[Any, ...]:
    return tuple(value(node).shape[:-1])


def _link(node: fx.Node) -> _Link | None:
    """Return ``node`` as a step; None where it can be none."""
    if not isinstance(value(node), torch.Tensor) or value(node).dtype not in FLOATS or value(node).dim() < 2 or notes(node).written:
        return None
    link = _product(node) or _sum(node) or _apply(node)
    if link is None or any(value(x).dtype not in FLOATS or notes(_source(x)).written for x in link.reads):
        return None
    return link


def _product(node: fx.Node) -> _Link | None:
    if not calls(node, *NUMBERS):
        return None
    x, given = node.args[0], node.kwargs
    assert isinstance(x, fx.Node)
    found: Any = Prologue(x, given.get("prologue", ""), given.get("times"), given.get("plus"), given.get("eps", 0.0))  # type: ignore[arg-type]
    return _Link(node, Kind.PRODUCT, [x, *_rows_of(found)], found)


def _rows_of(found: Prologue) -> list[fx.Node]:
    """Return what the prologue multiplies by, where that is rows and no constant."""
    return [found.times] if found.times is not None and value(found.times).dim() > 1 else []


def _sum(node: fx.Node) -> _Link | None:
    if name_of(node) != "add" or len(node.args) != 2 or node.kwargs or not all(map(is_tensor, node.args)):
        return None
    x, y = node.args
    alike = all(value(each).dtype is value(node).dtype and same_shape(value(each).shape, value(node).shape) for each in (x, y))
    return _Link(node, Kind.SUM, [x, y], Prologue(x, "")) if alike else None  # type: ignore[list-item, arg-type]


def _apply(node: fx.Node) -> _Link | None:
    found = next((each for each in (normalization(node), activation(node)) if isinstance(each, Prologue)), None)
    if found is None or value(found.x).dtype is not value(node).dtype:
        return None
    constants = [each for each in (found.times, found.plus) if each is not None]
    fits = all(value(each).dim() == 1 and same(value(each).shape[0], value(node).shape[-1]) for each in constants)
    return _Link(node, Kind.APPLY, [found.x], found) if fits and all(value(each).dtype in FLOATS for each in constants) else None


def _below(node: Any) -> fx.Node | None:
    """Return what ``node`` is a view of: the same rows, or columns that lie side by side."""
    if (same_rows := idle_dropout(node)) is not None:
        return same_rows
    if (below := cast(node)) is not None and value(below).dtype is value(node).dtype and len(node.all_input_nodes) == 1:
        return below
    if calls(node, operator.getitem) and calls(node.args[0], aten.split_with_sizes.default):
        x, _, *dim = node.args[0].args
        return x if dim in ([-1], [value(x).dim() - 1]) else None
    return None


def _source(node: fx.Node) -> fx.Node:
    """Return what ``node`` is a view of, or itself."""
    while (below := _below(node)) is not None:
        node = below
    return node


def _way(node: fx.Node) -> list[fx.Node]:
    """Return the views from ``node`` down to its source, with the splits that they are taken from."""
    way: list[Any] = []
    while (below := _below(node)) is not None:
        way += [node, node.args[0]] if calls(node, operator.getitem) else [node]
        node = below
    return way


def _first(node: fx.Node) -> int:
    """Return the column of the source that the view ``node`` begins with."""
    first = 0
    while (below := _below(node)) is not None:
        if calls(node, operator.getitem):
            first += sum(node.args[0].args[1][: node.args[1]])  # type: ignore[union-attr, index, arg-type]
        node = below
    return first


def _views(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """Return the views of ``nodes``, and the splits that they are taken from."""
    found: set[fx.Node] = set()
    todo = list(nodes)
    while todo:
        node = todo.pop()
        for user in node.users:
            part = calls(user, aten.split_with_sizes.default) or (calls(node, aten.split_with_sizes.default) and _below(user) is not None)
            if user not in found and user.args[0] is node and (part or _below(user) is node):
                found.add(user)
                todo.append(user)
    return found


def _readers(node: fx.Node) -> set[fx.Node]:
    """Return who reads ``node``, directly or through views."""
    readers: set[fx.Node] = set()
    views = _views([node])
    for each in (node, *views):
        readers |= {user for user in each.users if user not in views}
    return readers


def _write(gm: fx.GraphModule, ctx: PassContext, members: Sequence[fx.Node]) -> bool:
    """Write the op of a chain in place of its last step; returns whether there is one, of no more results than an op may have."""
    kept = _kept(members)
    while len(kept) > MOST_KEPT:
        members = members[:-1]
        kept = _kept(members)
    if len(members) < 2 or not kept:  # what nobody reads at all is Dynamo's to drop
        return False
    last = members[-1]
    links = [link for link in map(_link, members) if link is not None]  # as they are now that other chains are written
    assert len(links) == len(members), "a step is a step as long as nothing but other chains is written"
    rows = list(dict.fromkeys(x for link in links for x in link.reads if _source(x) not in members))
    values = {node: number for number, node in enumerate((*rows, *members))}
    constants: dict[fx.Node, int] = {}
    steps = [_step(link, values, constants, link.node in kept) for link in links]
    program, eps = encode(steps)
    call = emit(gm, ops.chain.default, rows, list(constants), program, eps, like=last, before=last)
    body = _body(members, [*rows, *constants], kept)
    for site in ctx.sites:
        if site.node in members:
            site.chain(call, body[site.node])
    replaced = [*members, *_views(members)]
    for number, member in enumerate(kept):
        with gm.graph.inserting_before(last):
            result = laid_out(gm, emit(gm, operator.getitem, call, number, like=member), member)
        substitute(member, result)
    erase_unused(replaced)
    return True


def _kept(members: Sequence[fx.Node]) -> list[fx.Node]:
    """Return the steps whose results others read."""
    return [member for member in members if _readers(member) - set(members)]


def _body(members: Sequence[fx.Node], inputs: Sequence[fx.Node], kept: Sequence[fx.Node]) -> dict[fx.Node, fx.Node]:
    """Return copies of ``members`` in a graph of their own, which computes what is ``kept`` of the rows and constants of the chain."""
    graph = fx.Graph()
    known = {}
    for node in inputs:
        known[node] = graph.placeholder(node.name)
        known[node].meta = dict(node.meta)
    between = {node for member in members for x in member.all_input_nodes if x not in known for node in _way(x)}
    copies = copied(sorted({*members, *between}), graph, known)
    graph.output(tuple(copies[node] for node in kept))
    return copies


def _step(link: _Link, values: dict[fx.Node, int], constants: dict[fx.Node, int], kept: bool) -> Step:
    def constant(node: Any) -> int:
        return NONE if node is None else constants.setdefault(node, len(constants))

    def place(x: fx.Node) -> tuple[int, int]:
        return (values[x], 0) if x in values else (values[_source(x)], _first(x))

    node, found = link.node, link.prologue
    product = link.kind == Kind.PRODUCT
    weight, bias = map(constant, node.args[1:3] if product else (None, None))  # the first weight is the first constant
    (x, first), *other = map(place, link.reads)
    y, y_first = other[0] if other else (NONE, 0)
    return Step(
        kind=link.kind,
        x=x,
        x_first=first,
        x_count=int(value(link.reads[0]).shape[-1]),
        y=y,
        y_first=y_first,
        function=FUNCTION[found.function],
        times=constant(None if other else found.times),
        plus=constant(found.plus),
        weight=weight,
        bias=bias,
        linear=NUMBERS[node.target] if product else 0,
        group=int(node.args[4]) if product and len(node.args) == 6 else 0,  # type: ignore[arg-type]
        dtype=FLOATS.index(value(node).dtype),
        columns=int(value(node).shape[-1]),
        kept=int(kept),
        eps=found.eps,
    )
