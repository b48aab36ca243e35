"""The same function in several processes of one gloo group, forked from this one, with one thread each."""

import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist


def in_processes(processes: int, function: Callable[..., dict[str, Any]], *arguments: Any) -> list[dict[str, Any]]:
    """Return what ``function(*arguments)`` returns in each of ``processes``."""
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in range(processes):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    torch.set_num_threads(1)
                    dist.init_process_group("gloo", rank=rank, world_size=processes, store=dist.FileStore(f"{folder}/store", processes))
                    torch.save(function(*arguments), f"{folder}/{rank}")
                    dist.barrier()
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(code)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        if any(codes):
            raise SystemExit(f"processes ended with {codes}")
        return [torch.load(f"{folder}/{rank}") for rank in range(processes)]
