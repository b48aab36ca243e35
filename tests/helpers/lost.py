"""Two processes of which the second is lost between two calls of a compiled model: run by helpers/ranks.py."""

import os
import signal
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from helpers.compiled import compiled
from helpers.tensor_parallel import block, rows

SECONDS = 2


def call(how: str, scales: str) -> dict[str, Any]:
    """Return the error of a call that the second process, which is "killed" or "slow", does not join, its seconds, and a product before and after it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.distributed_c10d import _set_pg_timeout
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    model = parallelize_module(block(), init_device_mesh("cpu", (2,)), plan)
    run, alone, result = compiled(model, tp_scales=scales), compiled(block()), {"error": ""}
    with torch.no_grad():
        run(rows()) + 0  # what is not read is not waited for
        result["before"] = alone(rows()).tolist()
        dist.barrier()
        _set_pg_timeout(timedelta(seconds=SECONDS), dist.group.WORLD)
        if dist.get_rank() == 1:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(2 * SECONDS)
        start = time.monotonic()
        try:
            run(rows()) + 0
        except RuntimeError as error:
            result["error"] = type(error).__name__
        result["seconds"] = time.monotonic() - start
        result["again"] = alone(rows()).tolist()
    dist.destroy_process_group()
    return result
