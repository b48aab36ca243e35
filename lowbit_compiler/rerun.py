"""Running somebody's model more than once: what a run may change beside its outputs, and an error of it in one line."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lowbit_compiler.torch_internals import dynamo
from lowbit_compiler.torch_internals.trees import tree_leaves

USUAL = "usually because the model keeps something beside its buffers, such as a counter in Python"


def restorer(model: Callable[..., Any], values: Any = ()) -> Callable[[], None]:
    """Return a function that gives the buffers of ``model`` (a module or its method) and the tensors in ``values`` what they hold now."""
    owner = getattr(model, "__self__", model)
    slots = [(each._buffers, dict(each._buffers)) for each in owner.modules()] if isinstance(owner, nn.Module) else []
    found = [
        *(leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)),
        *(buffer for _, buffers in slots for buffer in buffers.values() if buffer is not None),
    ]
    saved = [(tensor, tensor.detach().clone()) for tensor in found]

    def restore() -> None:
        for now, before in slots:
            now.clear()
            now.update(before)
        with torch.no_grad():
            for tensor, value in saved:
                if not torch.equal(tensor, value):
                    tensor.copy_(value)

    return restore


def describe(error: BaseException) -> str:
    """Return one line: the error below what Dynamo wraps around it, by its type and message."""
    inner = dynamo.inner(error)
    message = next(iter(str(inner).strip().splitlines()), "")
    return f"{type(inner).__name__}: {message}" if message else type(inner).__name__
