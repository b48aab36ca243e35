"""What a run may change beside its outputs: inputs and buffers written in place, buffers exchanged, random numbers drawn."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


def restorer(model: Callable[..., Any], tensors: Iterable[Tensor] = ()) -> Callable[[], None]:
    """Return a function that gives the buffers of ``model`` (a module or its method) and ``tensors`` the values they have now."""
    owner = getattr(model, "__self__", model)
    slots = [(each._buffers, dict(each._buffers)) for each in owner.modules()] if isinstance(owner, nn.Module) else []
    found = [*tensors, *(buffer for _, buffers in slots for buffer in buffers.values() if buffer is not None)]
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


@contextlib.contextmanager
def same_random_numbers() -> Iterator[None]:
    """Draw the random numbers of one seed inside, and go on afterwards as if none had been drawn."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        yield
