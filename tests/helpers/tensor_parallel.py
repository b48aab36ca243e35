"""Models cut over the processes of a gloo group, and what each process sees of them compiled: run by helpers/ranks.py."""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import lowbit_compiler as lowbit
from helpers import sharded_tools, sharded_writes
from helpers.compiled import compiled
from lowbit_compiler.checkpoints.linear import StoredLinear
from lowbit_compiler.compile import prepared

WIDTH = 128


class Block(nn.Module):
    """A feed-forward block between norms, with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(self.norm(x))))


class Summed(nn.Module):
    """What a linear is that ``world`` processes have by columns, in one process: the sum of its parts, the first of which has the bias."""

    def __init__(self, linear: nn.Linear | StoredLinear, world: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        for rank in range(world):
            part = part_of(linear, rank, world)
            part.bias = linear.bias if rank == 0 else None
            self.parts.append(part)

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = (part(each) for part, each in zip(self.parts, x.chunk(len(self.parts), -1), strict=True))
        return sum(rest, first)


def part_of(linear: nn.Linear | StoredLinear, rank: int, world: int) -> Any:
    """Return the columns of ``linear`` that one process has; of a low-bit one with the scales of whole rows."""
    k, n = linear.in_features // world, linear.out_features
    if isinstance(linear, StoredLinear):
        part = StoredLinear(k, n, linear.scheme, None)
        part.fill({name: x.chunk(world, 1)[rank].clone() if x.shape[1:] > (1,) else x for name, x in linear.tensors().items()})
        return part
    part = nn.Linear(k, n, bias=False)
    part.weight = nn.Parameter(linear.weight.chunk(world, 1)[rank].detach().clone())
    return part


def block() -> Block:
    """Return the same block in every process."""
    torch.manual_seed(3)
    return Block().eval().requires_grad_(False)


def rows() -> Tensor:
    """Return the block's input [2, 8, WIDTH]."""
    return torch.randn(2, 8, WIDTH, generator=torch.Generator().manual_seed(5))


def emulated(model: nn.Module, *names: str, world: int = 2) -> nn.Module:
    """Return ``model`` with the linears ``names`` as sums of parts."""
    model = copy.deepcopy(model)
    for name in names:
        owner, _, leaf = name.rpartition(".")
        parent = model.get_submodule(owner)
        setattr(parent, leaf, Summed(getattr(parent, leaf), world))
    return model.eval()


@contextmanager
def apart() -> Iterator[None]:
    """Let what is compiled inside have the sums and functions between products as torch computes them: kernels have other last bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOWBIT_DISABLE", "prologue,chain")
        yield


@contextmanager
def packings() -> Iterator[list[int]]:
    """Count how often a weight is quantized and packed."""
    count, pack = [0], prepared.compute

    def counted(*args: Any) -> Any:
        count[0] += 1
        return pack(*args)

    prepared.compute = counted
    try:
        yield count
    finally:
        prepared.compute = pack


def seen(model: nn.Module, call: Callable[[Any], Tensor], recipe: str = "int8", fused: bool = False, **options: Any) -> dict[str, Any]:
    """Compile ``model``, and return what two calls give, with the report's rows and how often weights were packed for each.

    ``fused``: with the passes that :func:`apart` takes out.
    """
    torch.compiler.reset()
    run = compiled(model, recipe, **options)
    with torch.no_grad(), nullcontext() if fused else apart(), packings() as count, warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*already erased node")
        first, packed = _whole(call(run)), count[0]
        second = _whole(call(run))
    sites = [(site.module, site.kind, site.decision, site.detail) for site in lowbit.last_report().sites]
    return {"first": first, "second": second, "packed": (packed, count[0] - packed), "sites": sites}


def _whole(x: Any) -> Tensor:
    result: Tensor = x.full_tensor() if hasattr(x, "full_tensor") else x
    return result.clone()


def cut(model: nn.Module, plan: dict[str, Any]) -> nn.Module:
    """Return ``model`` cut over all processes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import parallelize_module

    return parallelize_module(model, init_device_mesh("cpu", (dist.get_world_size(),)), plan)


def plan_of(sequence: bool = False) -> dict[str, Any]:
    """Return how the block is cut; ``sequence``: its norm by tokens."""
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel

    if not sequence:
        return {"up": ColwiseParallel(), "down": RowwiseParallel()}
    return {
        "norm": SequenceParallel(),
        "up": ColwiseParallel(input_layouts=Shard(1)),
        "down": RowwiseParallel(output_layouts=Shard(1), use_local_output=False),
    }


def blocks() -> dict[str, Any]:
    """Return what becomes of the block cut in several ways, and of a weight that is written to."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    mesh, x = init_device_mesh("cpu", (dist.get_world_size(),)), rows()
    own = x.chunk(dist.get_world_size(), 1)[dist.get_rank()]
    found = {"sequence": seen(parallelize_module(block(), mesh, plan_of(sequence=True)), lambda run: run(own))}
    gathered = parallelize_module(block(), mesh, {"up": ColwiseParallel(output_layouts=Replicate())})
    found["columns"] = seen(gathered, lambda run: run(x))
    model = parallelize_module(block(), mesh, plan_of())
    found["rows"] = seen(model, lambda run: run(x))
    run = compiled(model)
    with torch.no_grad(), apart(), packings() as count:
        run(x)
        model.up.weight[:, 40:41].add_(1.0)  # a part that no sample is sure to see
        found["written"] = {"first": run(x), "packed": count[0]}
        model.down.weight.to_local().numpy()[:] *= -0.5  # no version counter sees that
        found["unseen"] = {"first": run(x), "packed": count[0]}
    odd = block().up
    for name, parameter in list(odd.named_parameters()):
        odd.register_parameter(name, nn.Parameter(distribute_tensor(parameter, mesh, [Shard(0)]), requires_grad=False))
    split = DTensor.from_local(x, mesh, [Shard(1)])
    found["declined"] = seen(odd, lambda run: run(split))
    return found | {"writes": sharded_writes.written(mesh), "pending": sharded_writes.pending(mesh), "tools": sharded_tools.used(mesh)}
