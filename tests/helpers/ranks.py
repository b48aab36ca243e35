"""Several processes of one gloo group, each forked from one that has imported torch, that run the same function of a module in tests/."""

import signal
from pathlib import Path
from typing import Any

import torch

from helpers import forks

SECONDS = 240
PROGRAM = f"""
import importlib, json, os, signal, sys
import torch, torch.distributed as dist

tests, folder, world, name, *arguments = sys.argv[1:]
sys.path.insert(0, tests)
module, _, function = name.partition(":")

def work(rank):
    signal.alarm({SECONDS})
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=int(world), store=dist.FileStore(folder + "/store", int(world)))
    result = getattr(importlib.import_module(module), function)(*arguments)
    torch.save(result, f"{{folder}}/{{rank}}.pt")
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()

children = []
for rank in range(int(world)):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work(rank)
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)
    children.append(pid)
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]))
"""


def run(function: str, folder: Path, *arguments: str, world: int = 2, killed: int | None = None) -> list[Any]:
    """Return what ``function`` ("helpers.module:function", called with ``arguments``) returns in each of ``world`` processes.

    ``folder`` is an empty one of the test's. A process that has not ended after SECONDS is killed; ``killed`` is one that ends itself so.
    """
    done = forks.run(PROGRAM, str(Path(__file__).parents[1]), str(folder), str(world), function, *arguments)
    codes = [-signal.SIGKILL if rank == killed else 0 for rank in range(world)]
    assert done.stdout.splitlines()[-1:] == [str(codes)], done.stdout + done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world) if rank != killed]
