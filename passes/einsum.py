"""An einsum of an activation and a constant, as a linear between two reshapes."""

from torch import fx

from lowbit_compiler.passes.graph import aten, emit, emit_linear, numel, value


def _letters(equation: str, x_dim: int, w_dim: int) -> tuple[str, str, str] | None:
    """Return (x, w, output) letters, or None for what is not a plain contraction (diagonals, broadcasting)."""
    equation = equation.replace(" ", "")
    operands, arrow, out = equation.partition("->")
    x, comma, w = operands.partition(",")
    if not comma or "," in w:
        return None
    if not arrow:  # the letters that appear once, in order
        if "..." in operands:
            return None
        out = "".join(sorted(c for c in x + w if operands.count(c) == 1))
    if "..." in x + w + out:
        if "..." in w or "..." not in x or "..." not in out:
            return None
        unused = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
        dots = "".join(unused[: x_dim - len(x.replace("...", ""))])
        x, out = x.replace("...", dots), out.replace("...", dots)
    if len(x) != x_dim or len(w) != w_dim or any(len(set(part)) != len(part) for part in (x, w, out)):
        return None
    return x, w, out


def einsum_as_linear(gm: fx.GraphModule, node: fx.Node, equation: str, x: fx.Node, weight: fx.Node) -> fx.Node | None:
    """Return the linear that computes ``einsum(equation, x, weight)``, or None where a batch letter forbids it."""
    letters = _letters(equation, value(x).dim(), value(weight).dim())
    if letters is None:
        return None
    xs, ws, out = letters
    summed = "".join(c for c in xs if c in ws and c not in out)
    x_free, w_free = "".join(c for c in xs if c not in ws), "".join(c for c in ws if c not in xs)
    if not summed or not w_free or set(out) != set(x_free + w_free):
        return None
    x_size = dict(zip(xs, value(x).shape, strict=True))
    w_size = dict(zip(ws, value(weight).shape, strict=True))
    if any(isinstance(size := x_size[c], int) and size != w_size[c] for c in summed):
        return None  # a size of 1 that is broadcast
    k, n = numel(w_size[c] for c in summed), numel(w_size[c] for c in w_free)

    x = _permuted(gm, node, x, xs, x_free + summed)
    weight = _permuted(gm, node, weight, ws, w_free + summed)
    if len(summed) > 1:
        x = emit(gm, aten.reshape.default, x, [*_sizes(gm, node, x, len(x_free), x_size, x_free), k], like=node)
    if len(summed) > 1 or len(w_free) > 1:
        weight = emit(gm, aten.reshape.default, weight, [n, k], like=node)
    product = emit_linear(gm, x, weight, like=node, dtype=value(node).dtype)
    if len(w_free) > 1:
        sizes = [*_sizes(gm, node, product, len(x_free), x_size, x_free), *(w_size[c] for c in w_free)]
        product = emit(gm, aten.reshape.default, product, sizes, like=node)
    return _permuted(gm, node, product, x_free + w_free, out)


def _permuted(gm: fx.GraphModule, node: fx.Node, tensor: fx.Node, have: str, want: str) -> fx.Node:
    return tensor if have == want else emit(gm, aten.permute.default, tensor, [have.index(c) for c in want], like=node)


def _sizes(gm: fx.GraphModule, node: fx.Node, tensor: fx.Node, count: int, sizes: dict[str, object], letters: str) -> list[object]:
    """Return the first ``count`` sizes of ``tensor``; a symbolic one is read in the graph."""
    return [
        size if isinstance(size := sizes[letter], int) else emit(gm, aten.sym_size.int, tensor, dim, like=node)
        for dim, letter in enumerate(letters[:count])
    ]
