"""A function traced to a graph of ATen calls, before autograd and autocast are resolved."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx


def trace(function: Callable[..., Any], inputs: tuple[Any, ...], decompositions: Mapping[Any, Callable[..., Any]]) -> fx.GraphModule:
    """Return the graph of ``function(*inputs)``, whose inputs are fake values; raises whatever tracing raises."""
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(function, decomposition_table=dict(decompositions), pre_dispatch=True, _allow_non_fake_inputs=True)(*inputs)
