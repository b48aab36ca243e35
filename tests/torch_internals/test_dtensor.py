"""Canaries: a DTensor still holds its local tensor as one object, and Dynamo's graphs still say how each one is placed."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import fx


@pytest.fixture
def mesh() -> Iterator[Any]:
    """A mesh of this process alone."""
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


def test_local_tensor_is_one_object(surface: ModuleType, mesh: Any) -> None:
    from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor

    weight = torch.nn.Parameter(distribute_tensor(torch.ones(4, 6), mesh, [Shard(0)]))
    assert surface.is_dtensor(weight)
    assert not surface.is_dtensor(torch.ones(1))
    held = surface.local(weight)
    with torch.no_grad():
        weight[1:2].mul_(2)
    assert surface.local(weight) is held
    assert (surface.version(weight), held._version, held[1, 0].item()) == (1, 0, 2)
    surface.announce(weight)
    assert held._version == 1
    assert surface.text(weight) == "DTensor [Shard(dim=0)]"
    assert surface.dims(weight) == (0,)
    assert surface.dims(distribute_tensor(torch.ones(4), mesh, [Replicate()])) == (None,)
    from torch.distributed.tensor import DTensor

    assert surface.dims(DTensor.from_local(torch.ones(4), mesh, [Partial()])) is None
    assert surface.is_first(weight, [0])
    doubled = surface.with_local(weight.detach(), lambda part: 2 * part)
    assert (doubled.placements, doubled.shape, doubled.stride()) == (weight.placements, weight.shape, weight.stride())
    assert torch.equal(surface.local(doubled), 2 * held)
    assert torch.equal(surface.with_local(held, lambda part: 2 * part), 2 * held)


def test_results_are_placed_as_torch_places_them(surface: ModuleType, mesh: Any) -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    for of_x, split in ((Replicate(), 0), (Shard(2), 1), (Shard(1), None)):
        x = distribute_tensor(torch.randn(2, 3, 6), mesh, [of_x])
        weight = distribute_tensor(torch.randn(4, 6), mesh, [Replicate() if split is None else Shard(split)])
        want = F.linear(x, weight)
        assert surface.placed_as(want, x, (split,))
        got = surface.product(F.linear(surface.local(x), surface.local(weight)), x, 4, (split,))
        assert (got.placements, got.shape, got.stride()) == (want.placements, want.shape, want.stride())
        torch.testing.assert_close(got.full_tensor(), want.full_tensor())
        summed = surface.product(surface.local(want), x, 4, (split,), True)
        assert summed.placements == ((Replicate(),) if split == 1 else want.placements)
        names, count = surface.groups(weight, [0])
        assert (names, count) == ((mesh.get_group(0).group_name,), 1)


def test_graphs_say_how_dtensors_are_placed(surface: ModuleType, mesh: Any) -> None:
    from torch.distributed.tensor import DTensor, Shard

    graphs: list[fx.Graph] = []

    def backend(gm: fx.GraphModule, examples: Any) -> Any:
        graphs.append(gm.graph)
        return gm.forward

    weight = DTensor.from_local(torch.randn(4, 6), mesh, [Shard(0)])

    def model(x: torch.Tensor) -> Any:
        return F.linear(DTensor.from_local(x, mesh, [Shard(1)], run_check=False), weight).to_local()

    torch.compiler.reset()
    torch.compile(model, backend=backend, fullgraph=True)(torch.randn(3, 6))
    calls = {str(node.target): node for node in graphs[0].nodes if node.op in ("call_function", "call_method")}
    assert [node.args[0].target for node in graphs[0].nodes if node.target == "to_local"] == [F.linear]
    made = next(node for node in graphs[0].nodes if node.op == "call_function" and surface.wraps(node.target))
    assert made.args[0].op == "placeholder"
    assert surface.dims(made.meta["example_value"]) == (1,)
    assert len(calls) == 3
