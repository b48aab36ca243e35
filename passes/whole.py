"""What a softmax or attention node computes as one op, with all that folds into it; and whether that pays."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from lowbit_compiler.passes.around import is_alone, loops
from lowbit_compiler.passes.calls import AttentionCall, SoftmaxCall, equal, operand
from lowbit_compiler.passes.codes import dequantized
from lowbit_compiler.passes.contract import FLOATS, PassContext
from lowbit_compiler.passes.graph import aten, is_tensor, same, undisturbed, value
from lowbit_compiler.passes.heads import unrepeated
from lowbit_compiler.passes.scores import Scores, read_scores
from lowbit_compiler.passes.site import Declined, Reason, Whole
from lowbit_compiler.passes.spell import argument, cast
from lowbit_compiler.torch_internals.fakes import FakeTensor
from lowbit_compiler.torch_internals.shapes import statically_known_true

MIN_GAIN = 1.02
LEVEL = 0.97  # of torch's speed is within what timings scatter: enough for what is more accurate
LOG = (aten.log_softmax.int, aten._log_softmax.default)


@dataclass
class SoftmaxSite:
    """A softmax with the scale, masks and casts around it; ``root`` is the last node that it replaces."""

    root: fx.Node
    scores: Scores
    dim: int
    log: bool
    alone: bool
    loops: int  # as in SoftmaxCall

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its result."""
        return value(self.root).dtype  # type: ignore[no-any-return]

    def call(self) -> SoftmaxCall:
        """Return what is to be timed."""
        x = operand(value(self.scores.source))
        return SoftmaxCall(x, self.dim, self.scores.scale, self.scores.mask_operand, self.log, self.dtype, self.alone, self.loops)


@dataclass
class AttentionSite:
    """A scaled_dot_product_attention, its key and value heads as few as they are; ``chain`` is what repeats and dequantizes them."""

    q: fx.Node
    k: fx.Node
    v: fx.Node
    mask: fx.Node | None
    causal: bool
    scale: float
    chain: list[fx.Node] = field(default_factory=list)
    repeated: bool = False
    scales: tuple[fx.Node, fx.Node] | None = None  # of k and v in int8

    def call(self) -> AttentionCall:
        """Return what is to be timed."""
        q, k, v = (operand(four(value(x))) for x in (self.q, self.k, self.v))
        mask = None if self.mask is None else operand(value(self.mask))
        return AttentionCall(q, k, v, mask, self.causal, self.scale, self.repeated)


def four(tensor: Any) -> Any:
    """Return a 3-D tensor as one batch of heads."""
    return tensor.unsqueeze(0) if tensor.dim() == 3 else tensor


def read_softmax(node: fx.Node, ctx: PassContext) -> SoftmaxSite | Declined:
    """Return what the softmax ``node`` computes, or why no kernel does."""
    arguments: Any = node.args
    x, dim = arguments[0], arguments[1]
    wide = node.target in (aten.softmax.int, aten.log_softmax.int) and argument(node, 2, "dtype") is not None
    dtypes = (value(x).dtype, value(node).dtype)
    if (why := unsupported(ctx, x)) is not None:
        return why
    if not all(dtype in FLOATS for dtype in dtypes):
        return Reason.UNSUPPORTED_DTYPE, f"{dtypes[0]} to {dtypes[1]}; accepted: float32, bfloat16, float16"
    if value(x).dim() == 0 or (wide and dtypes[1] is not torch.float32 and dtypes[0] is not dtypes[1]):
        return Reason.UNSUPPORTED_OP, f"softmax of {value(x).dim()} dimensions, computed in {dtypes[1]}"
    scores = read_scores(x)
    if scores.chain and not undisturbed(min(scores.chain), node, scores.chain):
        scores = Scores(x)
    root = _rounded(node)
    alone = scores.mask_is_there and is_alone(node.graph, {node, root, *scores.chain})
    beside = loops(scores.source, root, {site.node for site in ctx.sites})
    return SoftmaxSite(root, scores, dim % value(x).dim(), node.target in LOG, alone, beside)


def _rounded(node: fx.Node) -> fx.Node:
    """Return the conversion of a float32 result to the dtype that everybody reads, where there is one."""
    users = list(node.users)
    return users[0] if len(users) == 1 and value(node).dtype is torch.float32 and cast(users[0]) is node else node


def read_attention(node: fx.Node, ctx: PassContext) -> AttentionSite | Declined:
    """Return what the attention ``node`` computes, or why no kernel does."""
    q, k, v = node.args[:3]
    mask, dropout = argument(node, 3, "attn_mask"), argument(node, 4, "dropout_p", 0.0)
    causal, scale = argument(node, 5, "is_causal", False), node.kwargs.get("scale")
    for x in (q, k, v):
        if (why := unsupported(ctx, x)) is not None:
            return why
    dtypes = {value(x).dtype for x in (q, k, v)}
    if len(dtypes) > 1 or not dtypes <= set(FLOATS) or value(node).dtype not in dtypes:
        return Reason.UNSUPPORTED_DTYPE, f"{', '.join(map(str, sorted(dtypes, key=str)))}; accepted: one of float32, bfloat16, float16"
    if dropout != 0:
        return Reason.UNSUPPORTED_OP, f"dropout {dropout} is active"
    if mask is not None and (not is_tensor(mask) or value(mask).dtype not in (*FLOATS, torch.bool)):
        return Reason.UNSUPPORTED_DTYPE, f"mask {value(mask)}; accepted: bool, float32, bfloat16, float16"
    if scale is None and isinstance(value(q).shape[-1], int):
        scale = 1 / math.sqrt(value(q).shape[-1])
    if not isinstance(scale, int | float) or not isinstance(causal, bool):
        return Reason.UNSUPPORTED_OP, f"scale {scale}, is_causal {causal}: not known when the graph is compiled"
    if not _fitting(*(four(value(x)).shape for x in (q, k, v))):
        return Reason.UNSUPPORTED_OP, f"operands of shapes {', '.join(str(tuple(value(x).shape)) for x in (q, k, v))}"
    return with_codes(node, with_few_heads(node, AttentionSite(q, k, v, mask, causal, float(scale))))  # type: ignore[arg-type]


def _fitting(q: Any, k: Any, v: Any) -> bool:
    if not len(q) == len(k) == len(v) == 4:
        return False
    heads = isinstance(q[1], int) and isinstance(k[1], int) and k[1] > 0 and q[1] % k[1] == 0
    if not (heads or (same(q[1], k[1]) and statically_known_true(k[1] > 0))):
        return False
    # A key cache and a value cache have a symbol each for one length, which every valid call makes equal.
    return equal(q[0], k[0]) and equal(q[3], k[3]) and all(equal(a, b) for a, b in zip(k[:3], v[:3], strict=True))


def with_few_heads(node: fx.Node, site: AttentionSite) -> AttentionSite:
    """Read keys and values below the nodes that repeat their heads."""
    keys, values = unrepeated(site.k), unrepeated(site.v)
    if keys is None or values is None:
        return site
    (k, above_k), (v, above_v) = keys, values
    chain = list(dict.fromkeys(above_k + above_v))
    fits = _fitting(*(four(value(x)).shape for x in (site.q, k, v)))
    if fits and isinstance(value(k).shape[1], int) and undisturbed(min(chain), node, chain):
        site.k, site.v, site.chain, site.repeated = k, v, chain, True
    return site


def with_codes(node: fx.Node, site: AttentionSite) -> AttentionSite:
    """Read keys and values below the nodes that dequantize them."""
    keys, values = dequantized(site.k), dequantized(site.v)
    if keys is None or values is None:
        return site
    chain = list(dict.fromkeys(site.chain + keys[2] + values[2]))
    if undisturbed(min(chain), node, chain):
        site.k, site.v, site.scales, site.chain = keys[0], values[0], (keys[1], values[1]), chain
    return site


def unsupported(ctx: PassContext, x: Any) -> Declined | None:
    """Return why no kernel takes the tensor ``x``, whatever the op."""
    if not isinstance(value(x), FakeTensor):
        return Reason.UNSUPPORTED_OP, f"tensor subclass {type(value(x)).__name__}"
    if value(x).device.type != ctx.target.kind:
        return Reason.NO_KERNEL, f"no kernels for {value(x).device.type} tensors; accepted: {ctx.target.accepted}"
    if str(value(x).layout) != "torch.strided":
        return Reason.UNSUPPORTED_DTYPE, f"layout {value(x).layout}"
    return None


def decide(ctx: PassContext, call: SoftmaxCall | AttentionCall) -> Whole | Declined:
    """Return the plan of a softmax or attention, or why torch's own is kept."""
    op = call.op
    if not ctx.target.has_kernels:
        return Reason.NO_KERNEL, f"the native library is not loaded, and lowbit::{op} in plain torch is slow"
    if isinstance(call, AttentionCall) and not ctx.target.attention:
        return Reason.NO_KERNEL, f"no attention kernel for {ctx.target.kind}; torch's own is kept"
    heads = _heads(call)
    if ctx.costs is None:
        return Whole(op, heads)
    try:
        cost = ctx.costs(call)
    except Exception as error:  # out of memory, or whatever a kernel or torch's own op says
        return Reason.NO_KERNEL, f"not timed: {type(error).__name__}: {error}"
    times = f"{seconds_text(cost.lowbit)}, torch {seconds_text(cost.torch)}"
    gained = cost.torch / cost.lowbit
    better = isinstance(call, SoftmaxCall) and call.more_accurate and ctx.target.kind == "cpu"
    if gained < (LEVEL if better else MIN_GAIN):
        return Reason.SLOWER, f"lowbit {times}"
    gain = f"{gained:.1f}x torch ({times})" if gained >= MIN_GAIN else f"level with torch ({times}), and more accurate"
    return Whole(op, f"{heads}; {gain}" if heads else gain)


def _heads(call: SoftmaxCall | AttentionCall) -> str:
    """Return how many query heads read one key head, where they are more than one."""
    shared = call.q.sizes[1] // max(call.k.sizes[1], 1) if isinstance(call, AttentionCall) else 1
    return f"{shared} query heads a key head" if shared > 1 else ""


def seconds_text(seconds: float) -> str:
    """Return a time for a person."""
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} us"
