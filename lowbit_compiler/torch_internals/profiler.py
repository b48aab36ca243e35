"""What torch's profiler recorded, as a tree of events with the sizes and identities of their inputs."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch._C._autograd import DeviceType

__all__ = ["DeviceType", "identity", "roots", "tensors"]


def identity(tensor: Tensor) -> int:
    """Return what :func:`tensors` says of ``tensor``: tensors that share memory, as packed weights do, have different ones."""
    return int(tensor._cdata)


def roots(profiler: Any) -> Sequence[Any]:
    """Return the outermost events of a finished ``torch.profiler.profile``."""
    return profiler.profiler.kineto_results.experimental_event_tree()  # type: ignore[no-any-return]


def tensors(event: Any, count: int) -> list[tuple[tuple[int, ...], int]]:
    """Return sizes and identity (0: none) of the tensors among the first ``count`` inputs of an op's ``event``; of a list its first."""
    inputs = [x[0] if isinstance(x, list) and x else x for x in event.typed[1].inputs[:count]]
    return [(tuple(x.sizes), int(x.impl_ptr or 0)) for x in inputs if hasattr(x, "impl_ptr")]
