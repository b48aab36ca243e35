"""What torch's profiler recorded, as a tree of events with the sizes and addresses of their inputs."""

from collections.abc import Sequence
from typing import Any

from torch._C._autograd import DeviceType

__all__ = ["DeviceType", "roots", "tensors"]


def roots(profiler: Any) -> Sequence[Any]:
    """Return the outermost events of a finished ``torch.profiler.profile``."""
    return profiler.profiler.kineto_results.experimental_event_tree()  # type: ignore[no-any-return]


def tensors(event: Any, count: int) -> list[tuple[tuple[int, ...], int]]:
    """Return sizes and storage address (0: none) of the tensors among the first ``count`` inputs of an op's ``event``; of a list its first."""
    inputs = [x[0] if isinstance(x, list) and x else x for x in event.typed[1].inputs[:count]]
    return [(tuple(x.sizes), x.storage_data_ptr or 0) for x in inputs if hasattr(x, "storage_data_ptr")]
