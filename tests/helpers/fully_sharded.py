"""A model under FSDP2 that answers, in the processes of a gloo group: run by helpers/ranks.py."""

from typing import Any

import torch
from torch import nn

from helpers.compiled import compiled, reports_of
from helpers.tensor_parallel import block, packings, rows


def answers() -> dict[str, Any]:
    """Return what becomes of two blocks of which each process holds a half of every weight."""
    from torch.distributed.fsdp import fully_shard

    model = nn.Sequential(block(), block())
    for each in model:
        fully_shard(each)
    fully_shard(model)
    run = compiled(model, fullgraph=False)

    def calls() -> list[torch.Tensor]:
        return [run(rows()) for _ in range(2)]

    with torch.no_grad(), packings() as count:
        results, reports = reports_of(calls)
    sites = [(site.decision, site.reason, site.detail) for report in reports for site in report.sites if site.kind == "linear"]
    return {"results": results, "packed": count[0], "sites": sites}
