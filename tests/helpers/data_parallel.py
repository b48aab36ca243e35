"""What one of two processes of tests/training/test_parallel.py does: it trains on its half of the text."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from helpers.compiled import reports_of
from helpers.training import learner, text, train


def replicated(model: Any) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


def sharded(model: Any) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    for block in model.blocks:
        fully_shard(block)
    return fully_shard(model)


WRAPPED = {"ddp": replicated, "fsdp": sharded}


def learned(kind: str, *recipes: str) -> dict[str, Any]:
    """Return, by recipe, the losses (the mean of the processes'), the sum of each parameter, and the sites that were rewritten or not."""
    rank, found = dist.get_rank(), {}
    for recipe in recipes:
        torch.compiler.reset()
        model = learner(recipe)
        run = torch.compile(WRAPPED[kind](model), backend="lowbit", options={"recipe": recipe, "remainder": "eager"})
        torch.manual_seed(100 + rank)
        losses, reports = reports_of(lambda model=model, run=run: train(model, run, text(4)[2 * rank : 2 * rank + 2]))
        losses = torch.tensor(losses)
        dist.all_reduce(losses)
        whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
        rows = [(site.module, site.op, site.decision) for report in reports for site in report.sites]
        found[recipe] = (losses / 2).tolist(), [p.double().sum().item() for p in whole], rows
    return found
