"""Models under FSDP2, in the processes of a gloo group: run by helpers/ranks.py."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import lowbit_compiler as lowbit
from helpers import parallel_llama
from helpers.compiled import compiled, reports_of
from helpers.tensor_parallel import WIDTH, apart, block, packings, rows
from helpers.training import learner, text, train
from lowbit_compiler.compile import passing, training
from lowbit_compiler.errors import WeightFreedError
from lowbit_compiler.runtime.forms import Packed, Saved

RECIPES = ("int8", "int4")


class Odd(nn.Module):
    """A linear of which two processes have no whole panels, and one of which they have no equal parts."""

    def __init__(self) -> None:
        super().__init__()
        self.ragged, self.uneven = nn.Linear(WIDTH, 72), nn.Linear(72, 33, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.uneven(self.ragged(x))


def odd() -> nn.Sequential:
    """Return two blocks and one of the other kind."""
    torch.manual_seed(4)
    return nn.Sequential(block(), block(), Odd()).eval().requires_grad_(False)


def shard(model: nn.Module, blocks: Any) -> nn.Module:
    """Shard ``blocks`` of ``model``, and the rest of it."""
    from torch.distributed.fsdp import fully_shard

    for each in blocks:
        fully_shard(each)
    return fully_shard(model)


@contextmanager
def gathered() -> Iterator[list[int]]:
    """Count the bytes that this process sends to each other one in all-gathers."""
    count, gather = [0], dist.all_gather_single

    def counted(output_tensor: Tensor, input_tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        count[0] += input_tensor.nbytes
        return gather(output_tensor, input_tensor, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_gather_single", counted)
        yield count


@contextmanager
def quantizations() -> Iterator[list[int]]:
    """Count how often this process quantizes its rows of a weight."""
    count = [0]

    def counting(made: Callable[..., Any]) -> Callable[..., Any]:
        def counted(form: Any, rows: Tensor) -> Any:
            count[0] += 1
            return made(form, rows)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        for form in (Packed, Saved):
            patch.setattr(form, "made", counting(form.made))
        yield count


@contextmanager
def computations() -> Iterator[list[int]]:
    """Count how often a gathered weight is computed from what was gathered, where that is not the packed weight itself."""
    count, compute = [0], passing.compute

    def counted(*args: Any) -> Any:
        count[0] += 1
        return compute(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passing, "compute", counted)
        yield count


@contextmanager
def seeds() -> Iterator[list[int]]:
    """Collect the seeds that graphs which train draw in this process."""
    drawn: list[int] = []
    draw = training._draw

    def kept(device: torch.device) -> Tensor:
        seed = draw(device)
        drawn.append(int(seed))
        return seed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_draw", kept)
        yield drawn


def _sites(reports: list[Any]) -> list[Any]:
    return [(site.module, site.decision, site.reason, site.detail) for report in reports for site in report.sites if site.kind == "linear"]


def answers() -> dict[str, Any]:
    """Return what becomes of two blocks of which each process holds a half of every weight."""
    model = nn.Sequential(block(), block())
    shard(model, model)
    run = compiled(model, fullgraph=False)
    with torch.no_grad(), packings() as count:
        results, reports = reports_of(lambda: [run(rows()) for _ in range(2)])
    return {"results": results, "packed": count[0], "sites": [site[1:] for site in _sites(reports)]}


def packed() -> dict[str, Any]:
    """Return what becomes of weights that are gathered packed, by recipe, and after writes to them."""
    found: dict[str, Any] = {}
    for recipe in RECIPES:
        model = lowbit.gather_packed(odd(), recipe)
        run = compiled(shard(model, model), recipe, fullgraph=False)
        torch.compiler.reset()
        with torch.no_grad(), gathered() as sent, quantizations() as count, computations() as again:
            results, reports = reports_of(lambda run=run: [run(rows()) for _ in range(2)])
        found[recipe] = {"results": results, "sent": sent[0] // 2, "quantized": count[0], "computed": again[0], "sites": _sites(reports)}
    with torch.no_grad(), quantizations() as count:
        found["whole"] = model[0].up.weight.full_tensor()
        model[0].up.weight[:, 40:41].add_(1.0)  # a part that no sample is sure to see
        found["written"] = run(rows()), count[0]
        model[1].down.weight.to_local().plain.numpy()[:] *= -0.5  # that neither a counter nor an op sees
        found["unseen"] = run(rows()), count[0]
    return found | {"freed": _freed(), "ignored": _ignored(), "assigned": _assigned(), "meshes": _meshes()}


def _assigned() -> dict[str, Any]:
    """Return what comes of another weight that is assigned in the place of one that was gathered, and that weight."""
    from torch.distributed.tensor import distribute_tensor

    model = lowbit.gather_packed(nn.Sequential(block(), block()))
    run = compiled(shard(model, model), fullgraph=False)
    torch.compiler.reset()
    with torch.no_grad():
        run(rows())
        old = model[0].up.weight
        other = distribute_tensor(old.full_tensor().flip(1), old.device_mesh, old.placements)
        model.load_state_dict({"0.up.weight": other}, assign=True, strict=False)
        return {"result": run(rows()), "weight": other.full_tensor()}


def _meshes() -> dict[str, Any]:
    """Return what becomes of a block that both kinds of parallelism cut, one of which has one process: of floats and of codes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    found: dict[str, Any] = {}
    for name, sizes in (("float", (2, 1)), ("codes", (1, 2))):
        mesh = init_device_mesh("cpu", sizes, mesh_dim_names=("rows", "both"))
        model = block() if name == "float" else lowbit.gather_packed(block())
        parallelize_module(model, mesh["both"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
        run = compiled(fully_shard(model, mesh=mesh["rows"]), fullgraph=False, tp_scales="shared")
        torch.compiler.reset()
        with torch.no_grad():
            found[name] = _sites(reports_of(lambda run=run: run(rows()))[1])
    return found


def _freed() -> dict[str, Any]:
    model = lowbit.gather_packed(odd(), free_weights=True)
    run = compiled(shard(model, model), fullgraph=False)
    torch.compiler.reset()
    with torch.no_grad():
        results = [run(rows()) for _ in range(2)]
        held = [sum(p.to_local().plain.untyped_storage().nbytes() for p in model[0].parameters() if p.dim() == 2)]
        with pytest.raises(WeightFreedError):
            model[0].up.weight.mul_(2.0)
        with pytest.raises(WeightFreedError):
            model[0].up.weight.full_tensor()
    return {"results": results, "held": held[0]}


def _ignored() -> int:
    """Return how many products two equal blocks, which share a graph, have in low bits where one of four is ignored."""
    model = lowbit.gather_packed(nn.Sequential(block(), block()))
    run = compiled(shard(model, model), fullgraph=False, ignore=["1.up"])
    torch.compiler.reset()
    with torch.no_grad(), apart():
        run(rows())
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            run(rows())
    return sum(event.name.startswith("lowbit::linear_") for event in profile.events())


def learned(*recipes: str) -> dict[str, Any]:
    """Return, by recipe, what training with gathered codes gives, and with gathered floats: losses, sums of parameters, bytes, seeds."""
    found: dict[str, Any] = {}
    for recipe in recipes:
        for low in (True, False):
            torch.compiler.reset()
            model = learner(recipe)
            if low:
                lowbit.gather_packed(model, recipe)
            run = compiled(shard(model, model.blocks), recipe, fullgraph=False)
            fused = torch.optim.AdamW(model.parameters(), 1e-2, fused=True) if recipe == recipes[-1] else None
            torch.manual_seed(100)  # the same in both processes
            with gathered() as sent, quantizations() as count, seeds() as drawn:
                losses = train(model, run, text(4)[2 * dist.get_rank() :][:2], optimizer=fused)
            whole = [p.full_tensor() for p in model.parameters()]
            found[recipe, low] = {"losses": losses, "weights": whole, "sent": sent[0], "quantized": count[0], "seeds": drawn}
    return found


def llama(folder: str) -> dict[str, Any]:
    """Return the logits of two layers of Llama and the bytes sent for them, by recipe; "" is float."""
    found: dict[str, Any] = {}
    for recipe in ("", *RECIPES):
        torch.compiler.reset()
        model = parallel_llama.load(folder)
        if recipe:
            lowbit.gather_packed(model, recipe, ignore=[parallel_llama.HEAD])
        run = shard(model, model.model.layers)
        with torch.no_grad(), apart(), gathered() as sent:
            got = parallel_llama.logits(compiled(run, recipe, fullgraph=False, ignore=[parallel_llama.HEAD]) if recipe else run)
        found[recipe] = got, sent[0]
    return found
