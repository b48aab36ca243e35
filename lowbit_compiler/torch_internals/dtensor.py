"""DTensor, a tensor that a mesh of processes shares: what of it this one holds, how it is placed, and the way back from a local result."""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from torch import Size, Tensor, nn
from torch.autograd.graph import increment_version

Dims = tuple[int | None, ...]
"""For each dimension of a mesh, the dimension of a tensor that is split over it; None where each process has all."""


def is_dtensor(x: Any) -> bool:
    """Return whether ``x`` is shared by a mesh. Where nobody has imported DTensor there is none, and the import takes a while."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def local(x: Any) -> Tensor:
    """Return what this process holds of the DTensor ``x``: always the same object. Writes to ``x`` leave its version counter as it is."""
    tensor: Tensor = x._local_tensor
    return tensor


def with_local(x: Tensor, change: Callable[[Tensor], Tensor]) -> Any:
    """Return the DTensor ``x`` with what ``change`` makes of its part of this process; of a tensor that is none, what it makes of all."""
    if not is_dtensor(x):
        return change(x)
    sharded: Any = x
    made = type(sharded).from_local(
        change(local(x)), sharded.device_mesh, sharded.placements, run_check=False, shape=x.shape, stride=x.stride()
    )
    return made


def version(x: Any) -> int:
    """Return the version counter of the DTensor ``x``; -1 where it was made under inference_mode and has none."""
    return -1 if x.is_inference() else int(x._version)


def announce(x: Any) -> None:
    """Count a write to what this process holds of the DTensor ``x``."""
    if not local(x).is_inference():
        increment_version(local(x))


def dims(x: Any) -> Dims | None:
    """Return how the DTensor ``x`` is split; None where it is neither whole nor cut into slices on each dimension of the mesh."""
    from torch.distributed.tensor import Replicate, Shard

    # By the very types: what splits in a way of its own (strided slices) is none of them.
    if x.device_mesh.get_coordinate() is None or not all(type(placement) in (Shard, Replicate) for placement in x.placements):
        return None
    return tuple(placement.dim if type(placement) is Shard else None for placement in x.placements)


def text(x: Any) -> str:
    """Return what a report calls a tensor's class, with the placements of a DTensor: ``DTensor [Shard(dim=0)]``."""
    name = type(x).__name__
    return f"{name} [{', '.join(map(repr, x.placements))}]" if is_dtensor(x) else name


def product_text(x: Any, weight: Any, result: Any) -> str:
    """Return what a report says of a product of subclasses of tensors: ``tensor subclass DTensor [Replicate()], DTensor [Shard(dim=0)] -> ...``.

    How the result is placed tells which products of equal placements are local: where a dimension is too small torch moves data first.
    """
    made = f" -> {text(result)}" if is_dtensor(result) else ""
    return f"tensor subclass {text(x)}, {text(weight)}{made}"


def first_sharded(model: nn.Module) -> str:
    """Return the name of a parameter or buffer that is a DTensor, with its placements; "" where there is none."""
    named = (*model.named_parameters(), *model.named_buffers())
    return next((f"{name} is a {text(each)}" for name, each in named if is_dtensor(each)), "")


def is_first(x: Any, mesh_dims: Sequence[int]) -> bool:
    """Return whether this process is the first one along each of these dimensions of the mesh of ``x``."""
    return all(x.device_mesh.get_local_rank(dim) == 0 for dim in mesh_dims)


def groups(x: Any, mesh_dims: Sequence[int]) -> tuple[tuple[str, ...], int]:
    """Return the names of this process's groups along these dimensions of the mesh of ``x``, and how many processes they are together."""
    names = tuple(str(x.device_mesh.get_group(dim).group_name) for dim in mesh_dims)
    return names, math.prod(x.device_mesh.size(dim) for dim in mesh_dims)


def product(local_result: Tensor, x: Any, outs: int, split: Dims, summed: bool = False) -> Any:
    """Return the DTensor of a linear's ``local_result``.

    ``x`` [..., K] is the DTensor that was multiplied, ``outs`` the rows of the whole weight, and ``split`` says how the weight [N, K] is
    split: by rows (0) the result is so in its last dimension, by columns (1) it is a part of a sum, or with ``summed`` the sum, and by neither
    it is placed as ``x``.
    """
    from torch.distributed.tensor import DTensor

    shape = (*x.shape[:-1], outs)
    stride = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))  # sizes may be symbolic
    return DTensor.from_local(local_result, x.device_mesh, _placements(x, split, summed), run_check=False, shape=Size(shape), stride=stride)


def placed_as(result: Any, x: Any, split: Dims) -> bool:
    """Return whether ``result`` is placed as :func:`product` would place it."""
    return list(result.placements) == _placements(x, split)


def _placements(x: Any, split: Dims, summed: bool = False) -> list[Any]:
    from torch.distributed.tensor import Partial, Replicate, Shard

    made = {0: Shard(x.dim() - 1), 1: Replicate() if summed else Partial()}
    return [own if dim is None else made[dim] for own, dim in zip(x.placements, split, strict=True)]


def wraps(target: Any) -> bool:
    """Return whether a call of ``target`` makes a DTensor of its first argument, which is what this process holds of it."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and target == module.DTensor.from_local  # a bound method: another object each time
