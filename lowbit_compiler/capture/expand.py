"""Replace one node by the ATen calls it makes: fused module forwards, and views of parameters written in any way."""

import contextlib
import logging
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from lowbit_compiler.capture.probe import call, tracing
from lowbit_compiler.passes.graph import aten, copied, value
from lowbit_compiler.torch_internals import fused
from lowbit_compiler.torch_internals.tracing import trace
from lowbit_compiler.torch_internals.trees import tree_flatten, tree_unflatten

log = logging.getLogger("lowbit_compiler")
PROVENANCE = ("nn_module_stack", "stack_trace")


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
        q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value_), qkv_weight.chunk(3), qkv_bias.chunk(3), strict=True))
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
    **dict.fromkeys(fused.NATIVE_ATTENTION, _native_attention),
    **dict.fromkeys(fused.ENCODER_LAYER, _encoder_layer),
}
COMPOSITE: dict[Any, Callable[..., Any]] = {
    op: op.decompose
    for op in (
        aten.tensordot.default, aten.inner.default, aten.chain_matmul.default, aten.linalg_multi_dot.default, aten.linalg_matmul.default,
        aten.lstm_cell.default, aten.gru_cell.default, aten.rnn_tanh_cell.default, aten.rnn_relu_cell.default,
        torch.ops.lowbit.stepped_linear.default,
    )
}  # fmt: skip

WRAPPERS: dict[Any, int] = {torch.ops.higher_order.tag_activation_checkpoint: 1, torch.ops.higher_order.wrap: 1}
"""Calls of a graph that, without gradients, do no more than run it; and the position of its first operand."""


def splice(gm: fx.GraphModule, node: fx.Node) -> list[fx.Node] | None:
    """Replace a wrapper's call by the nodes of the graph that it runs; None, and no change, where that graph needs more than its operands."""
    body = getattr(gm, str(node.args[0].target), None) if isinstance(node.args[0], fx.Node) else None
    if not isinstance(body, fx.GraphModule) or any(inner.op == "get_attr" for inner in body.graph.nodes):
        return None
    if not all(user.target is operator.getitem for user in node.users):
        return None
    made = _put(gm, node, body.graph, node.args[WRAPPERS[node.target] :])
    for inner, new in made.items():
        if "example_value" in inner.meta:
            new.meta["val"] = inner.meta["example_value"]
    return list(made.values())


def inline(gm: fx.GraphModule, node: fx.Node, autocasts: Sequence[fx.Node] = ()) -> list[fx.Node] | None:
    """Replace ``node`` by the ATen calls it makes, which keep its provenance; returns them in order.

    ``autocasts`` are the calls that entered the autocast regions around it. Returns None, and changes nothing, where the call cannot
    be traced or its result is a tuple that is not taken apart.
    """
    if not all(user.target is operator.getitem for user in node.users) and isinstance(value(node), (tuple, list)):
        return None
    inputs, replay = _replay(node, autocasts)
    try:
        with tracing(gm):
            traced = trace(replay, tuple(value(arg) for arg in inputs), COMPOSITE)
    except Exception as error:
        log.debug("%s is left whole: %s: %s", node.format_node(), type(error).__name__, error)
        return None
    traced.graph.eliminate_dead_code()
    if any(inner.op == "get_attr" for inner in traced.graph.nodes):
        return None
    provenance = {key: node.meta[key] for key in PROVENANCE if key in node.meta}
    made = list(_put(gm, node, traced.graph, inputs).values())
    for new in made:
        new.meta.update(provenance)
    return made


def _replay(node: fx.Node, autocasts: Sequence[fx.Node]) -> tuple[list[fx.Node], Callable[..., Any]]:
    """Return the nodes that ``node`` reads, and what it computes as a function of their values."""
    function = FUSED.get(node.target) or call(node)
    flat, spec = tree_flatten((node.args, node.kwargs))
    inputs = list(dict.fromkeys(arg for arg in flat if isinstance(arg, fx.Node)))

    def replay(*values: Any) -> Any:
        known = dict(zip(inputs, values, strict=True))
        args, kwargs = tree_unflatten([known.get(a, a) if isinstance(a, fx.Node) else a for a in flat], spec)
        with contextlib.ExitStack() as regions:
            for region in autocasts:
                regions.enter_context(torch.autocast(*region.args))  # type: ignore[arg-type]
            return function(*args, **kwargs)

    return inputs, replay


def _put(gm: fx.GraphModule, node: fx.Node, body: fx.Graph, operands: Sequence[Any]) -> dict[fx.Node, fx.Node]:
    """Put the calls of ``body`` on ``operands`` in the place of ``node``; returns the copy of each.

    A tuple must be read through getitem alone, as Dynamo does.
    """
    known = dict(zip(body.find_nodes(op="placeholder"), operands, strict=False))
    steps = [inner for inner in body.nodes if inner.op not in ("placeholder", "output")]
    with gm.graph.inserting_before(node):
        copies = copied(steps, gm.graph, known)
    result: Any = fx.map_arg(body.output_node().args[0], copies.__getitem__)
    if isinstance(result, (tuple, list)):
        for user in list(node.users):
            index: Any = user.args[1]
            user.replace_all_uses_with(result[index])
            gm.graph.erase_node(user)
    else:
        node.replace_all_uses_with(result)
    gm.graph.erase_node(node)
    return {inner: copies[inner] for inner in steps}
