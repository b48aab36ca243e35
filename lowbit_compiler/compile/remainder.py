"""What runs the rest of the graph: Inductor, torch_tensorrt, or nothing where there is no rest, or eager for debugging."""

import functools
import hashlib
import operator
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from lowbit_compiler import runtime
from lowbit_compiler.errors import WeightFreedError
from lowbit_compiler.passes.graph import calls
from lowbit_compiler.runtime.kernels import FAMILIES
from lowbit_compiler.runtime.weights import any_freed
from lowbit_compiler.torch_internals import inductor, torch_tensorrt
from lowbit_compiler.torch_internals.aot import mark_static


def compile_remainder(
    gm: fx.GraphModule, examples: Sequence[Any], kind: str, mode: str | None, weights: Collection[str] = ()
) -> Callable[..., Any]:
    """Compile ``gm`` for ``examples`` (real or fake inputs) with Inductor in ``mode`` or torch_tensorrt, or return it as it is: if asked to, or if nothing remains.

    ``weights`` are the placeholders that stay where they are from call to call.

    Raises WeightFreedError where the graph reads a float weight that is no longer there: generated code would read address 0.
    """
    if any_freed(examples):
        raise WeightFreedError(
            "this graph reads a float weight that was released by free_weights=True; load the model anew, or compile without free_weights"
        )
    settings = patches(mode, gm)
    inductor.probed()  # also where nothing remains: the next graph may be timed
    if kind == "eager" or (nothing_remains(gm) and (on_cpu(gm) or not settings)):  # a mode of a GPU has more to offer than calls
        return gm.forward
    if kind == "tensorrt" and not on_cpu(gm):
        return torch_tensorrt.compile_graph(gm, examples)
    for node in gm.graph.find_nodes(op="placeholder"):
        node.meta.pop("val", None)  # for generated C++ compile_fx would take these for its inputs, and know no scalar's value
    if any(isinstance(example, Tensor) and example.device.type == "cuda" for example in examples):
        mark_static(gm, weights)
    tag = f"{torch.compiler.config.cache_key_tag} {cache_tag()}".strip()
    with torch.compiler.config.patch(cache_key_tag=tag):  # type: ignore[attr-defined]
        return inductor.compile_graph(gm, examples, settings)


def nothing_remains(gm: fx.GraphModule) -> bool:
    """Return whether ops with kernels of ours are all that ``gm`` calls: Inductor could only call them too, from more code around them."""
    ours = [getattr(torch.ops.lowbit, name).default for name in FAMILIES]
    called = [node for node in gm.graph.nodes if node.op not in ("placeholder", "output")]
    return bool(called) and all(calls(node, *ours, operator.getitem) for node in called)


def patches(mode: str | None, gm: fx.GraphModule) -> dict[str, Any] | None:
    """Return Inductor's settings for ``mode``.

    "reduce-overhead" is CUDA graphs in Inductor, and nothing on a CPU. What costs there between kernels is the generated Python, so it
    becomes C++: at one token a sixth of SmolLM2's time, for two to three times the compile time.
    """
    if mode is None:
        return None
    return {"cpp_wrapper": True} if mode == "reduce-overhead" and on_cpu(gm) else inductor.modes()[mode]


def on_cpu(gm: fx.GraphModule) -> bool:
    """Return whether all tensors of ``gm`` are on the CPU."""
    values = [node.meta.get("val", node.meta.get("example_value")) for node in gm.graph.nodes]
    return all(x.device.type == "cpu" for x in values if isinstance(x, Tensor))


@functools.cache
def cache_tag() -> str:
    """Return what Inductor's caches must tell apart beside the graph: the ops' schemas and shape functions, by their source."""
    files = sorted(Path(runtime.__file__).parent.rglob("*.py"))
    return "lowbit-" + hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
