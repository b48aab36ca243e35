"""Tensors that are int8 codes times scales: what a cache in int8 gives to attention."""

from typing import Any

import torch
from torch import fx

from lowbit_compiler.passes.graph import is_tensor, same, value
from lowbit_compiler.passes.spell import CASTS, cast, name_of


def dequantized(node: Any) -> tuple[fx.Node, fx.Node, list[fx.Node]] | None:
    """Return codes [B, G, S, E], scales [B, G, S, 1] and the nodes above them, where ``node`` is their product; None for anything else.

    Spelled ``(codes.to(float32) * scales).to(dtype)``, factors in either order, the last conversion only where there is one.
    """
    below = cast(node)
    chain = [node] if below is not None else []
    product = node if below is None else below
    factors: Any = product.args if name_of(product) == "mul" else ()
    if len(factors) != 2 or not all(map(is_tensor, factors)):
        return None
    wide, scales = factors if value(factors[1]).shape[-1:] == (1,) else reversed(factors)
    if name_of(wide) not in CASTS or not is_tensor(wide.args[0]):
        return None
    codes = wide.args[0]
    of_dtypes = (value(codes).dtype, value(wide).dtype, value(scales).dtype) == (torch.int8, torch.float32, torch.float32)
    rows, one = value(codes).shape[:-1], value(scales).shape
    if not of_dtypes or value(codes).dim() != 4 or len(one) != 4 or not all(same(a, b) for a, b in zip((*rows, 1), one, strict=True)):
        return None
    return codes, scales, [*chain, product, wide]
