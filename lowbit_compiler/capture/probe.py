"""What an unknown call computes: run it once on fake tensors, and watch which ATen operations it makes."""

import contextlib
import re
from typing import Any

import torch
from torch import fx

from lowbit_compiler.capture.dialect import spelling
from lowbit_compiler.passes.graph import fake_mode, value
from lowbit_compiler.passes.notes import Hidden
from lowbit_compiler.torch_internals.dispatch import HigherOrderOperator, OpOverload, TorchDispatchMode, enable_python_dispatcher
from lowbit_compiler.torch_internals.shapes import unmarked

KINDS = {
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot", "_trilinear", "_int_mm", "_scaled_mm",
                     "_grouped_mm", "_scaled_grouped_mm", "_addmm_activation", "linear", "mkldnn_linear", "_cdist_forward",
                     "_euclidean_dist", "_weight_int8pack_mm", "_weight_int4pack_mm"), "matmul"),
    **dict.fromkeys(("convolution", "_convolution", "convolution_overrideable", "mkldnn_convolution", "_slow_conv2d_forward"), "convolution"),
    **dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax", "_sparse_softmax"), "softmax"),
    **dict.fromkeys(("mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn"), "recurrent"),
}  # fmt: skip
CUSTOM = (
    ("attention", "attn|attention|sdpa"),
    ("matmul", "mm|bmm|gemm|addmm|matmul|linear|gemv"),
    ("convolution", "conv|conv1d|conv2d|conv3d"),
)
"""Words in the name of somebody's own op, which cannot be looked into."""


def product_kind(target: OpOverload) -> str | None:
    """Return the kind of product that one dispatched op is, judged by its name, or None."""
    namespace, _, name = target._schema.name.partition("::")
    if namespace in ("aten", "prims", "mkldnn"):
        return "attention" if name.startswith("_scaled_dot_product") else KINDS.get(name)
    if namespace == "lowbit":
        return None
    words = set(re.split(r"_|(?<=[a-z])(?=[A-Z])", name.lower()))
    return next((kind for kind, pattern in CUSTOM if any(re.fullmatch(pattern, word) for word in words)), None)


class _Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: list[tuple[str, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = product_kind(func)
        if kind is not None:
            self.products.append((kind, str(func._schema.name).partition("::")[2]))
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def tracing(gm: fx.GraphModule) -> Any:
    """Run the graph's calls on its fake values, without leaving marks in their shape environment."""
    mode = fake_mode(gm)
    # The python dispatcher keeps sizes symbolic in composite ops, as in Dynamo's own run; without it some would be fixed.
    with (
        enable_python_dispatcher(),
        mode,
        torch.no_grad(),
        unmarked(mode),
    ):
        yield


def call(node: fx.Node) -> Any:
    """Return what ``node`` calls, as a function of its arguments."""
    if node.op == "call_method":
        name = str(node.target)
        return lambda tensor, *args, **kwargs: getattr(tensor, name)(*args, **kwargs)
    return node.target


class Probe:
    """Answers :meth:`products` for the calls of one graph; each target without products is run once."""

    def __init__(self, gm: fx.GraphModule) -> None:
        self._gm = gm
        self._plain: set[Any] = set()

    def products(self, node: fx.Node) -> list[Hidden]:
        """Return the products that ``node`` computes; empty for a call that cannot be run on fake values."""
        if node.target in self._plain:
            return []
        if isinstance(node.target, HigherOrderOperator):
            return _nested(self._gm, node)
        if isinstance(node.target, OpOverload) and (kind := product_kind(node.target)) is not None:
            return [Hidden(kind, spelling(node), f"no rule for {spelling(node)}")]
        args, kwargs = fx.map_arg((node.args, node.kwargs), value)
        try:
            with tracing(self._gm), _Watch() as watch:
                call(node)(*args, **kwargs)
        except Exception:
            return []  # e.g. needs real data
        if not watch.products:
            self._plain.add(node.target)
        return [Hidden(kind, op, f"inside {spelling(node)}, which stays whole") for kind, op in watch.products]


def _nested(gm: fx.GraphModule, node: fx.Node) -> list[Hidden]:
    """Return the products in the graphs that a higher-order call runs (torch.cond, checkpoint, flex_attention, ...)."""
    name = str(node.target)
    found: list[Hidden] = [Hidden("attention", name, f"no rule for {name}")] if "attention" in name else []
    for arg in node.all_input_nodes:
        body = getattr(gm, str(arg.target), None) if arg.op == "get_attr" else None
        if isinstance(body, fx.GraphModule):
            found += [Hidden(kind, op, f"in a graph of its own, called by {name}") for kind, op in _body_products(body)]
    return found


def _body_products(body: fx.GraphModule) -> list[tuple[str, str]]:
    probe = Probe(body)
    for node in body.graph.nodes:
        if "val" not in node.meta and "example_value" in node.meta:
            node.meta["val"] = node.meta["example_value"]
    calls = [node for node in body.graph.nodes if node.op in ("call_function", "call_method")]
    return [(kind, op) for node in calls for kind, op, _ in probe.products(node)]
