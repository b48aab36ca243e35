"""Replace one node by the ATen calls it makes: fused module forwards, and views of parameters written in any way."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from lowbit_compiler.passes.graph import fake_mode, value


def _native_attention(
    query: Tensor, key: Tensor, value_: Tensor, embed_dim: int, heads: int, qkv_weight: Tensor, qkv_bias: Tensor,
    proj_weight: Tensor, proj_bias: Tensor, mask: Tensor | None = None, need_weights: bool = True,
    average_attn_weights: bool = True, mask_type: int | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """torch._native_multi_head_attention, batch first, written with linear, matmul and softmax."""

    def split(x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], heads, embed_dim // heads).transpose(1, 2)

    if query is key and key is value_:
        q, k, v = F.linear(query, qkv_weight, qkv_bias).chunk(3, -1)
    else:
        q, k, v = (
            F.linear(x, w, b) for x, w, b in zip((query, key, value_), qkv_weight.chunk(3), qkv_bias.chunk(3), strict=True)
        )
    q, k, v = split(q), split(k), split(v)
    added = None
    if mask is not None:
        if mask_type == 1:  # [batch, keys]: padded keys
            mask = mask[:, None, None, :]
        added = torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, -math.inf) if mask.dtype == torch.bool else mask.to(q.dtype)
    if need_weights:
        scores = q @ k.transpose(-1, -2) * (1 / math.sqrt(embed_dim // heads))
        weights = (scores if added is None else scores + added).softmax(-1)
        out = weights @ v
    else:
        weights, out = None, F.scaled_dot_product_attention(q, k, v, attn_mask=added)
    out = F.linear(out.transpose(1, 2).reshape(query.shape), proj_weight, proj_bias)
    return out, weights.mean(1) if weights is not None and average_attn_weights else weights


def _encoder_layer(
    src: Tensor, embed_dim: int, heads: int, qkv_weight: Tensor, qkv_bias: Tensor, proj_weight: Tensor, proj_bias: Tensor,
    use_gelu: bool, norm_first: bool, eps: float, norm_weight_1: Tensor, norm_bias_1: Tensor, norm_weight_2: Tensor,
    norm_bias_2: Tensor, ffn_weight_1: Tensor, ffn_bias_1: Tensor, ffn_weight_2: Tensor, ffn_bias_2: Tensor,
    mask: Tensor | None = None, mask_type: int | None = None,
) -> Tensor:  # fmt: skip
    """torch._transformer_encoder_layer_fwd, written out."""

    def attention(x: Tensor) -> Tensor:
        return _native_attention(
            x, x, x, embed_dim, heads, qkv_weight, qkv_bias, proj_weight, proj_bias, mask, need_weights=False, mask_type=mask_type
        )[0]

    def feed_forward(x: Tensor) -> Tensor:
        hidden = F.linear(x, ffn_weight_1, ffn_bias_1)
        return F.linear(F.gelu(hidden) if use_gelu else F.relu(hidden), ffn_weight_2, ffn_bias_2)

    def norm_1(x: Tensor) -> Tensor:
        return F.layer_norm(x, (embed_dim,), norm_weight_1, norm_bias_1, eps)

    def norm_2(x: Tensor) -> Tensor:
        return F.layer_norm(x, (embed_dim,), norm_weight_2, norm_bias_2, eps)

    if norm_first:
        src = src + attention(norm_1(src))
        return src + feed_forward(norm_2(src))
    src = norm_1(src + attention(src))
    return norm_2(src + feed_forward(src))


FUSED: dict[Any, Callable[..., Any]] = {
    F.multi_head_attention_forward: F.multi_head_attention_forward,
    torch._native_multi_head_attention: _native_attention,
    torch._transformer_encoder_layer_fwd: _encoder_layer,
    torch.ops.aten._native_multi_head_attention.default: _native_attention,
    torch.ops.aten._transformer_encoder_layer_fwd.default: _encoder_layer,
}


def inline(gm: fx.GraphModule, node: fx.Node, function: Callable[..., Any]) -> None:
    """Replace ``node`` by the graph that ``function`` makes of its arguments; every new node keeps the old one's provenance."""
    flat, spec = torch.utils._pytree.tree_flatten((node.args, node.kwargs))
    inputs = list(dict.fromkeys(arg for arg in flat if isinstance(arg, fx.Node)))

    def call(*values: Any) -> Any:
        known = dict(zip(inputs, values, strict=True))
        args, kwargs = torch.utils._pytree.tree_unflatten([known.get(a, a) if isinstance(a, fx.Node) else a for a in flat], spec)
        return function(*args, **kwargs)

    with fake_mode(gm), torch.no_grad():
        traced = make_fx(call, pre_dispatch=True, _allow_non_fake_inputs=True)(*(value(arg) for arg in inputs))
    traced.graph.eliminate_dead_code()
    environment: dict[fx.Node, fx.Node] = {}
    result: Any = None
    with gm.graph.inserting_before(node):
        for inner in traced.graph.nodes:
            if inner.op == "placeholder":
                environment[inner] = inputs[len(environment)]
            elif inner.op == "output":
                result = fx.map_arg(inner.args[0], lambda n: environment[n])
            else:
                copied = gm.graph.node_copy(inner, lambda n: environment[n])
                for key in ("nn_module_stack", "stack_trace"):
                    if key in node.meta:
                        copied.meta[key] = node.meta[key]
                environment[inner] = copied
    if isinstance(result, (tuple, list)):
        for user in list(node.users):
            user.replace_all_uses_with(result[user.args[1]])  # Dynamo reads a tuple only through getitem
            gm.graph.erase_node(user)
    else:
        node.replace_all_uses_with(result)
    gm.graph.erase_node(node)
