"""The same function in several processes of one gloo group, with one thread each."""

import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_processes(processes: int, function: Callable[..., dict[str, Any]], *arguments: Any) -> list[dict[str, Any]]:
    """Return what ``function(*arguments)``, a function of a module, returns in each of ``processes``; raises what it raises in one of them."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_child, (processes, folder, function, arguments), processes)
        return [torch.load(f"{folder}/{rank}") for rank in range(processes)]


def _child(rank: int, processes: int, folder: str, function: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=processes)
    torch.save(function(*arguments), f"{folder}/{rank}")
    dist.barrier()
    dist.destroy_process_group()
