"""Canaries: the collectives that compilers see are ops, of groups by name, and Dynamo spells an all-reduce with them."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import fx


@pytest.fixture
def group() -> Iterator[str]:
    """The name of a group of this process alone."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        assert dist.group.WORLD is not None
        yield dist.group.WORLD.group_name
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32])
def test_one_process_has_what_it_gives(surface: ModuleType, group: str, dtype: torch.dtype) -> None:
    x = torch.tensor([[1, -(2**31) + 1], [0, 2**31 - 1]]).to(dtype)
    for how in ("sum", "max"):
        assert torch.equal(surface.reduced(x, how, group), x)
    assert torch.equal(surface.gathered(x.t(), group), x.t())
    assert surface.group_size(group) == 1


def test_dynamo_writes_these_ops(surface: ModuleType, group: str) -> None:
    seen: list[Any] = []

    def backend(gm: fx.GraphModule, examples: Any) -> Any:
        seen.extend(gm.graph.nodes)
        return gm.forward

    def summed(x: torch.Tensor) -> torch.Tensor:
        y = x + 1
        dist.all_reduce(y)
        return y * 2

    torch.compiler.reset()
    torch.compile(summed, backend=backend, fullgraph=True)(torch.ones(3))
    (total,) = (node for node in seen if surface.is_sum(node.target))
    (wait,) = total.users
    assert surface.is_wait(wait.target)
    assert total.args[1:] == ("sum", group)
    (copy,) = wait.users
    assert (copy.target, copy.args) == ("copy_", (total.args[0], wait))
