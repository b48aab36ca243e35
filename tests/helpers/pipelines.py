"""Two compiled stages of a pipeline, one in each process of a gloo group: run by helpers/ranks.py."""

import torch
import torch.distributed as dist
from torch import Tensor

from helpers.compiled import compiled, reports_of
from helpers.tensor_parallel import block, rows

PARTS = 4
SCHEDULES = ("ScheduleGPipe", "Schedule1F1B")


def _model() -> list[torch.nn.Module]:
    first, second = block(), block()
    second.up.weight.mul_(-1)
    return [first, second]


def one_process() -> Tensor:
    """Return what the stages give in one process, part by part."""
    torch.compiler.reset()
    first, second = map(compiled, _model())
    with torch.no_grad():
        return torch.cat([second(first(part)) for part in _input().chunk(PARTS)])


def _input() -> Tensor:
    return torch.cat([rows(), -rows()])


def piped() -> dict[str, tuple[Tensor | None, list[str]]]:
    """Return what the last stage of each schedule gives, and what became of this process's linears when they were compiled."""
    from torch.distributed import pipelining

    rank, found = dist.get_rank(), {}
    model = compiled(_model()[rank])
    for schedule in SCHEDULES:
        stage = pipelining.PipelineStage(model, rank, dist.get_world_size(), torch.device("cpu"))
        run = getattr(pipelining, schedule)(stage, n_microbatches=PARTS, loss_fn=torch.nn.functional.mse_loss)
        with torch.no_grad():
            result, reports = reports_of(lambda run=run: run.eval(_input()) if rank == 0 else run.eval(target=_input()))
        found[schedule] = result, [site.decision for report in reports for site in report.sites if site.kind == "linear"]
    return found
