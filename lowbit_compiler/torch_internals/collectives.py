"""Sums and maxima over the processes of a group, as ops that compilers see: they may compute something else meanwhile."""

import torch
from torch import Tensor

SUM, WAIT = torch.ops._c10d_functional.all_reduce.default, torch.ops._c10d_functional.wait_tensor.default
"""What adds up, if its second argument says so, and what waits for it."""


def reduced(x: Tensor, how: str, group: str) -> Tensor:
    """Return the "sum" or "max" of ``x``, contiguous, over the processes of the group of this name."""
    result: Tensor = WAIT(SUM(x, how, group))
    return result


def gathered(x: Tensor, group: str) -> Tensor:
    """Return what the processes of the group have as ``x``, all of one shape, side by side in the last dimension."""
    rows = WAIT(torch.ops._c10d_functional.all_gather_into_tensor(x.contiguous().unsqueeze(0), group_size(group), group))
    return torch.cat(rows.unbind(), -1)


def group_size(group: str) -> int:
    """Return the number of processes in the group of this name."""
    from torch.distributed.distributed_c10d import _resolve_process_group  # type: ignore[attr-defined]

    return int(_resolve_process_group(group).size())  # type: ignore[arg-type]


def is_sum(target: object) -> bool:
    """Return whether ``target`` is SUM, in either spelling."""
    return target in (SUM, torch.ops._c10d_functional.all_reduce)


def is_wait(target: object) -> bool:
    """Return whether ``target`` is WAIT, in either spelling."""
    return target in (WAIT, torch.ops._c10d_functional.wait_tensor)
