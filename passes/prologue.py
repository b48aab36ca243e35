"""Activations and normalizations in front of a product, computed where its rows are read and quantized."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from lowbit_compiler.passes.contract import FLOATS, Fact, Pass, PassContext
from lowbit_compiler.passes.graph import calls, emit, erase_unused, is_tensor, same, same_shape, substitute, undisturbed, value
from lowbit_compiler.passes.notes import notes
from lowbit_compiler.passes.spell import argument, cast, idle_dropout, name_of
from lowbit_compiler.runtime.products import KEYS, PRODUCTS

ops = torch.ops.lowbit
NORMS = ("rms_norm", "layer_norm")
LINEARS = tuple(getattr(ops, product.op).default for product in PRODUCTS.values())


class FusePrologue(Pass):
    """Let a product read what its input is computed from.

    Before::

        %a = silu(%gate)                                   # or gelu, relu
        %h = mul(%a, %up)
        %y = lowbit.linear_s8s8_rotated(%h, %w, None, 576, None)
        %n = layer_norm(%r, (576,), %gain, %shift, 1e-5)   # or rms_norm, also written out
        %z = lowbit.linear_s8s8_rotated(%n, %v, None, 960, None)

    After::

        %y = lowbit.linear_s8s8_rotated(%gate, %w, None, 576, None, prologue="silu", times=%up)
        %z = lowbit.linear_s8s8_rotated(%r, %v, None, 960, None, prologue="layer_norm", times=%gain, plus=%shift, eps=1e-5)

    Nothing between may have another reader; the site says what stood in the way of an input that looks like one of these. What lies between is
    rounded to the dtype of x where the product takes float rows; where it quantizes them it is not, nor does it overflow in float16.
    """

    name = "prologue"
    requires = frozenset({Fact.LOWERED})

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> int:
        """Fuse wherever the input is computed for one product alone; returns the number of products."""
        fused = 0
        for node in ctx.each(ctx.planned_at()):
            if ctx.target.device != "cpu" or not calls(node, *LINEARS) or node.kwargs:
                continue
            found = _prologue(node)
            if isinstance(found, str):
                for site in ctx.sites_at(node):
                    site.leave_in_front(found)
                continue
            arguments, dtype = node.args[1:-1], value(node).dtype
            with gm.graph.inserting_before(node):
                out = None if value(found.x).dtype is dtype else dtype
                new = emit(gm, node.target, found.x, *arguments, out, like=node, **found.arguments)  # type: ignore[arg-type]
            substitute(node, new)
            ctx.replaced(node, new)
            for site in ctx.sites_at(new):
                site.fuse(found.words)
            erase_unused([node, *found.chain])
            fused += 1
        return fused


@dataclass
class Prologue:
    """``function(x) * times + plus``; ``chain`` are the nodes that it replaces."""

    x: fx.Node
    function: str
    times: fx.Node | None = None
    plus: fx.Node | None = None
    eps: float = 0.0
    chain: list[fx.Node] = field(default_factory=list)

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of an op that say so."""
        given = {"prologue": self.function, "times": self.times, "plus": self.plus, "eps": self.eps}
        return {name: given for name, given in given.items() if given is not None and given not in ("", 0.0)}

    @property
    def words(self) -> str:
        """What the report says of it."""
        return self.function + (", times" if self.times else "") + (", plus" if self.plus else "")


def _prologue(node: fx.Node) -> Prologue | str:
    """Return what ``node`` may do itself to its rows; else why not, "" where its input does not look like a prologue."""
    below, chain = _through(node.args[0])
    read = [match(below) for match in (_product, activation, normalization, _root_mean_square)]
    found = next((each for each in read if isinstance(each, Prologue)), None)
    if found is None or not is_tensor(found.x):
        return next((each for each in read if isinstance(each, str) and each), "")
    found.chain = [*chain, *found.chain]
    return _obstacle(node, found) or found


def _obstacle(node: fx.Node, found: Prologue) -> str:
    """Return why the input of ``node`` must be computed as it is: for others too, or from what has changed by then; "" where it need not."""
    inputs = [operand for operand in (found.x, found.times, found.plus) if operand is not None]
    for operand in (*inputs, *found.chain):
        if value(operand).dtype not in FLOATS:
            return f"%{operand.name} is {str(value(operand).dtype).removeprefix('torch.')}"
        if notes(operand).written:
            return f"%{operand.name} is written to in place"
    for link in found.chain:
        if link in inputs or not all(reader is node or reader in found.chain for reader in link.users):
            return f"%{link.name} has other readers"
    if not same_shape(value(found.x).shape, value(node.args[0]).shape):
        return f"%{found.x.name} is broadcast"
    if found.function in NORMS and not PRODUCTS[KEYS[node.target._schema.name.partition("::")[2]]].norms:  # type: ignore[union-attr]
        return f"{found.function} of a part of a row"
    return "" if undisturbed(min(found.chain), node, found.chain) else "another call writes in place between them"


def _through(node: Any) -> tuple[Any, list[fx.Node]]:
    """Return what lies below casts and dropouts that do nothing, and those."""
    chain: list[fx.Node] = []
    while (below := cast(node)) is not None or (below := idle_dropout(node)) is not None:
        chain.append(node)
        node = below
    return node, chain


def activation(node: Any) -> Prologue | str:
    """``silu(x)``, ``gelu(x)`` or ``relu(x)``."""
    name = name_of(node)
    if name not in ("silu", "gelu", "relu") or not is_tensor(node.args[0]):
        return ""
    approximate = argument(node, 1, "approximate", "none") if name == "gelu" else "none"
    if approximate not in ("none", "tanh"):
        return f"gelu with approximate={approximate!r}"
    if name != "gelu" and argument(node, 1, "inplace", False):
        return f"{name} writes in place"
    return Prologue(node.args[0], "gelu_tanh" if approximate == "tanh" else name, chain=[node])


def _product(node: Any) -> Prologue | str:
    """``activation(x) * y``, either first."""
    if name_of(node) != "mul" or len(node.args) != 2 or node.kwargs or not all(map(is_tensor, node.args)):
        return ""
    why = ""
    for first, second in (node.args, node.args[::-1]):
        below, chain = _through(first)
        found = activation(below)
        if isinstance(found, str):
            why = why or found
        elif second is not first and same_shape(value(second).shape, value(found.x).shape):
            return Prologue(found.x, found.function, second, chain=[node, *chain, *found.chain])
        else:
            why = why or f"{found.function} times {'itself' if second is first else f'%{second.name}, which is broadcast'}"
    return why


def normalization(node: Any) -> Prologue | str:
    """``layer_norm(x, (K,), gain, shift, eps)`` or ``rms_norm(x, (K,), gain, eps)``."""
    name = name_of(node)
    if name not in ("layer_norm", "rms_norm") or not is_tensor(node.args[0]):
        return ""
    x, shape = node.args[0], argument(node, 1, "normalized_shape")
    if not isinstance(shape, list | tuple | torch.Size) or len(shape) != 1:
        return f"{name} over {shape}, more than the last dimension"
    gain = argument(node, 2, "weight")
    shift = argument(node, 3, "bias") if name == "layer_norm" else None
    eps = argument(node, 4, "eps", 1e-5) if name == "layer_norm" else argument(node, 3, "eps")
    eps = torch.finfo(torch.float32).eps if eps is None else eps  # of half types too: torch computes them in float32
    return Prologue(x, name, gain, shift, float(eps), [node]) if isinstance(eps, int | float) else f"{name} with eps {eps}"


def _root_mean_square(node: Any) -> Prologue | str:
    """``gain * (x * rsqrt(mean(x ** 2) + eps))`` with casts anywhere; without a gain too."""
    why = ""
    if name_of(node) == "mul" and len(node.args) == 2 and all(map(is_tensor, node.args)):
        for gain, rest in (node.args, node.args[::-1]):
            below, chain = _through(rest)
            if value(gain).dim() != 1 or not same(value(gain).shape[0], value(node).shape[-1]):
                continue
            found = _scaled_by_its_mean(below)
            if isinstance(found, Prologue):
                return Prologue(found.x, "rms_norm", gain, None, found.eps, [node, *chain, *found.chain])
            why = why or found
    return _scaled_by_its_mean(node) or why


def _scaled_by_its_mean(node: Any) -> Prologue | str:
    """``x * rsqrt(mean(x ** 2) + eps)``."""
    why = ""
    if name_of(node) != "mul" or len(node.args) != 2:
        return why
    for first, second in (node.args, node.args[::-1]):
        found = _reciprocal(second)
        if isinstance(found, str):
            why = why or found
            continue
        (x, casts), (squared, inner) = _through(first), _through(found.x)
        if x is squared:
            return Prologue(x, "rms_norm", eps=found.eps, chain=[node, *casts, *inner, *found.chain])
        why = f"%{node.name} is scaled by the mean of something else"
    return why


def _reciprocal(node: Any) -> Prologue | str:
    """``rsqrt(mean(x ** 2, -1, keepdim=True) + eps)``: its x, eps and nodes."""
    if name_of(node) != "rsqrt" or name_of(total := node.args[0]) != "add" or len(total.args) != 2 or total.kwargs:
        return ""
    mean, eps = total.args if is_tensor(total.args[0]) else total.args[::-1]
    if name_of(mean) != "mean":
        return ""
    x, dim = _squared(mean.args[0]), argument(mean, 1, "dim")
    if x is None:
        return f"%{mean.name} is no mean of squares"
    last = value(mean.args[0]).dim() - 1
    if not argument(mean, 2, "keepdim", False) or (dim if isinstance(dim, list | tuple) else [dim]) not in ([-1], (-1,), [last], (last,)):
        return f"%{mean.name} is no mean over the last dimension that keeps it"
    if argument(mean, 3, "dtype") is not None or not isinstance(eps, int | float):
        return f"%{mean.name} has a dtype of its own" if isinstance(eps, int | float) else f"rms_norm with eps {eps}"
    return Prologue(x, "rms_norm", eps=float(eps), chain=[mean.args[0], mean, total, node])


def _squared(node: Any) -> Any:
    """Return x of ``x ** 2``, ``square(x)`` or ``x * x``."""
    name = name_of(node)
    by_itself = name == "mul" and len(node.args) == 2 and node.args[0] is node.args[1]
    return node.args[0] if name == "square" or by_itself or (name == "pow" and argument(node, 1, "exponent") in (2, 2.0)) else None
