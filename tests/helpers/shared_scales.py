"""Products of several processes whose scales are those of one device: run by helpers/ranks.py."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from helpers import parallel_llama
from helpers.compiled import compiled
from helpers.tensor_parallel import WIDTH, apart, block, cut, packings, plan_of, rows, seen

OUTS = 48


class One(nn.Module):
    """A linear with a bias, in ``dtype``."""

    def __init__(self, k: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.linear = nn.Linear(k, OUTS, dtype=dtype).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


CASES: dict[str, tuple[int, torch.dtype, str]] = {
    "int8": (256, torch.bfloat16, "int8"),
    "int8-vector": (200, torch.float16, "int8-vector"),
    "float32": (256, torch.float32, "int8"),
    "in blocks": (200, torch.float32, "int8"),
    "uneven": (257, torch.float32, "int8"),
}
"""K, the dtype and the recipe of a linear."""


def special(k: int, dtype: torch.dtype) -> Tensor:
    """Return rows [3, 4, k] with a zero row, ones that are almost that, and ones with NaN and Inf, before a rotation or after it."""
    x = torch.randn(3, 4, k, generator=torch.Generator().manual_seed(2))
    x[0, 1], x[0, 2], x[1, 1, 3], x[1, 2, -1] = 0.0, 1e-38, torch.nan, torch.inf
    x[2, 0, 1], x[2, 0, 2], x[2, 1] = -torch.inf, torch.nan, 0.9 * torch.finfo(dtype).max
    return x.to(dtype)


def llama(folder: str, plan: str, remainder: str) -> list[dict[str, Any]]:
    """Return what this process sees of the model of helpers/parallel_llama.py, apart and fused."""
    model = parallel_llama.cut(folder, plan)
    return [seen(model, parallel_llama.logits, fused=fused, tp_scales="shared", remainder=remainder) for fused in (False, True)]


def _mesh() -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", (dist.get_world_size(),))


def _one(k: int, dtype: torch.dtype) -> nn.Module:
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import RowwiseParallel

    return cut(One(k, dtype), {"linear": RowwiseParallel(input_layouts=Replicate())})


def everything() -> dict[str, Any]:
    """Return what this process sees of the block cut in several ways, of single linears, and of what happens in one process alone."""
    x = rows()
    own = x.chunk(dist.get_world_size(), 1)[dist.get_rank()]
    found: dict[str, Any] = {}
    model = cut(block(), plan_of())
    found["rows"] = seen(model, lambda run: run(x), tp_scales="shared")
    found["measured"] = seen(model, lambda run: run(x), tp_scales="shared", plan="measured")
    found["dynamic"] = seen(model, lambda run: run(x.repeat(1, 3, 1)[:, :19]), tp_scales="shared", dynamic=True)
    found["sequence"] = seen(cut(block(), plan_of(sequence=True)), lambda run: run(own), tp_scales="shared")
    for name, (k, dtype, recipe) in CASES.items():
        found[name] = seen(_one(k, dtype), lambda run, k=k, dtype=dtype: run(special(k, dtype)), recipe, tp_scales="shared")
    found["parts"] = _read_in_parts()
    found["alone"] = _alone()
    found["differ"] = _differ()
    return found


def _read_in_parts() -> dict[str, Any]:
    from torch.distributed.tensor import Partial, Replicate
    from torch.distributed.tensor.parallel import RowwiseParallel

    plan = RowwiseParallel(input_layouts=Replicate(), output_layouts=Partial())
    return seen(cut(One(256), {"linear": plan}), lambda run: run(special(256, torch.float32)[0]), tp_scales="shared")


def _alone() -> dict[str, Any]:
    """Return the results and packings after something that happens in one process alone."""
    from torch.distributed.tensor import DTensor, Shard

    torch.compiler.reset()
    rank, x = dist.get_rank(), rows()
    model = cut(block(), plan_of())
    run, found = compiled(model, tp_scales="shared"), {}

    def exchange(value: nn.Parameter) -> None:
        model.down.weight = value

    first = model.down.weight
    other = nn.Parameter(DTensor.from_local(first.to_local() * 3.0, _mesh(), [Shard(1)]), requires_grad=False)
    events: dict[str, Callable[[], Any]] = {
        "first": lambda: None,
        "unseen": lambda: rank == 1 and model.down.weight.to_local().numpy().__imul__(-0.5),
        "counted": lambda: rank == 0 and model.down.weight.to_local().mul_(2.0),
        "restored": lambda: rank == 0 and model.down.weight.to_local().mul_(1.0),
        "all": lambda: model.down.weight.mul_(0.25),
        "exchanged": lambda: exchange(other),
        "half exchanged": lambda: rank == 0 and exchange(first),
        "compiled anew": lambda: rank == 0 and torch.compiler.reset(),
    }
    with torch.no_grad(), apart(), packings() as count:
        for name, event in events.items():
            before = count[0]
            event()
            found[name] = (run(x), count[0] - before, model.down.weight.to_local().clone())
    return found


def _differ() -> str:
    """Return the error where the processes compile other graphs."""
    torch.compiler.reset()
    run = compiled(_one(2 * WIDTH, torch.float32), "int8" if dist.get_rank() else "int8-vector", tp_scales="shared")
    try:
        with torch.no_grad():
            run(torch.randn(4, 2 * WIDTH))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
