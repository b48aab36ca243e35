"""Canary: a module that ``fully_shard`` was called on still says which parameters its hooks gather."""

from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn


def test_gathered_parameters_are_found(surface: ModuleType) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    seen: list[int] = []

    class Model(nn.Linear):
        def forward(self, x: Any) -> Any:
            seen.append(id(self.weight))
            return super().forward(x)

    model = Model(4, 4)
    assert surface.gathered(model) == []
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        model(torch.ones(1, 4))
        assert seen[0] in map(id, surface.gathered(model))
    finally:
        dist.destroy_process_group()


def test_tensors_may_say_what_is_gathered() -> None:
    """The hooks that FSDP2 asks a tensor's class for: not written down, and torchao lives by them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from lowbit_compiler import gather_packed
    from lowbit_compiler.errors import OptionError
    from lowbit_compiler.runtime.gathered import GatheredWeight

    seen: list[Any] = []

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 32)

        def forward(self, x: Any) -> Any:
            seen.append(type(self.linear.weight))
            return self.linear(x)

    model = gather_packed(Model())
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        for _ in range(2):
            model(torch.ones(1, 64))
        assert seen == [GatheredWeight] * 2
        with pytest.raises(OptionError, match="called before fully_shard"):
            gather_packed(model)
    finally:
        dist.destroy_process_group()
