"""Two processes of which the second is lost, between two calls of a compiled model or while it compiles: run by helpers/ranks.py."""

import os
import signal
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from helpers.compiled import compiled
from helpers.tensor_parallel import block, cut, plan_of, rows

SECONDS = 2


def call(how: str, scales: str) -> dict[str, Any]:
    """Return the error of a call that the second process, which is "killed" or "slow", does not join, its seconds, and a product before and after it."""
    from torch.distributed.distributed_c10d import _set_pg_timeout

    model = cut(block(), plan_of())
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


def compiling(caches: str, last: str) -> dict[str, Any]:
    """Return what the first call of a model gives, compiled with caches on disk in ``caches``, or the error of it.

    The second process is killed as it gives the file its name that it writes there as number ``last``, counted from 1; 0 is none.
    """
    os.environ |= {"XDG_CACHE_HOME": f"{caches}/timings", "TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor"}
    if dist.get_rank() == 1 and int(last):
        _killed_at(int(last))
    run = compiled(cut(block(), plan_of()), remainder="inductor", plan="measured")
    try:
        with torch.no_grad():
            return {"result": run(rows()) + 0}
    except RuntimeError as error:
        dist.destroy_process_group()
        return {"error": type(error).__name__}


def _killed_at(last: int) -> None:
    """Kill this process when it is about to rename a file for the ``last`` time."""
    left, replace, rename = [last], os.replace, os.rename

    def counted(move: Any) -> Any:
        def moved(*args: Any, **kwargs: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            move(*args, **kwargs)

        return moved

    os.replace, os.rename = counted(replace), counted(rename)
