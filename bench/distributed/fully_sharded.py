"""SmolLM2-135M-Instruct under FSDP2, its weights gathered as floats or packed: bytes sent, resident memory, time and logits.

python bench/distributed/fully_sharded.py [--processes 2] [--tokens 128] [--dtype bfloat16]

Each layer is sharded by itself. The embedding, which is the head too, is gathered in float by the first call and stays: FSDP2 takes the outermost module's
parameters apart only when it is told to. The rest of the graph runs eager, and functions between products as torch computes them, so that logits can be
those of one process to the bit. Processes share the cores of this machine, with one thread each: bytes and memory are what they are anywhere, the time is
that of this machine's memory in the place of a network.
"""

import argparse
import contextlib
import gc
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common
from processes import in_processes

import lowbit_compiler as lowbit
from lowbit_compiler.demo import model, text
from lowbit_compiler.runtime.weights import trim

FLOAT = "float"
VARIANTS = ((FLOAT, False), ("int8", False), ("int8", True), ("int4", False), ("int4", True))
"""Recipe, and whether float weights are released."""
HEAD = "lm_head"
CALLS = 5


@contextlib.contextmanager
def gathered() -> Iterator[list[int]]:
    """Count the bytes that this process sends to each other one in all-gathers."""
    count, gather = [0], dist.all_gather_single

    def counted(output_tensor: Tensor, input_tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        count[0] += input_tensor.nbytes
        return gather(output_tensor, input_tensor, *args, **kwargs)

    dist.all_gather_single = counted
    try:
        yield count
    finally:
        dist.all_gather_single = gather


def memory(name: str) -> float:
    """Return the megabytes of ``name`` in /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024 / 1e6


def settled() -> float:
    """Return the anonymous memory of this process in megabytes, once what is free has gone back to the system."""
    gc.collect()
    trim()
    return memory("RssAnon")


@torch.no_grad()
def measured(recipe: str, free: bool, tokens: int, dtype: torch.dtype, sharded: bool = True) -> dict[str, Any]:
    """Return what this process sees."""
    from torch.distributed.fsdp import fully_shard

    model.load(dtype)  # what libraries keep is no one's weights
    before = settled()
    loaded = model.load(dtype)
    network: Any = loaded.model
    if sharded:
        if recipe != FLOAT:
            lowbit.gather_packed(network, recipe, free_weights=free)  # the head is the embedding, which it leaves
        for layer in network.model.layers:
            fully_shard(layer)
        fully_shard(network)
    after_sharding = settled() - before
    options = {"recipe": "int8" if recipe == FLOAT else recipe, "remainder": "eager", "plan": "always", "ignore": [HEAD]}
    run = torch.compile(network, backend="lowbit", dynamic=False, options=options)
    ids = text.token_ids(loaded.tokenizer, next(iter(text.TEXTS)), tokens).flatten()[:tokens].unsqueeze(0)
    logits = run(ids, use_cache=False).logits
    seconds = []
    with gathered() as sent:
        for _ in range(CALLS):
            start = time.perf_counter()
            run(ids, use_cache=False)
            seconds.append(time.perf_counter() - start)
    at_rest = settled() - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    run(ids, use_cache=False)
    return {
        "logits": logits,
        "MB sent a call": sent[0] / CALLS / 1e6,
        "MB sharded": after_sharding,
        "MB at rest": at_rest,
        "MB more in a call": memory("VmHWM") - memory("RssFile") - memory("RssShmem") - before - at_rest,
        "seconds": statistics.median(seconds),
    }


def main() -> None:
    """Measure, print, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    args = parser.parse_args()
    os.environ["LOWBIT_DISABLE"] = "prologue,chain"
    dtype, rows = getattr(torch, args.dtype), {}
    for recipe, free in VARIANTS:
        several = in_processes(args.processes, measured, recipe, free, args.tokens, dtype)
        equal = all(torch.equal(each["logits"], several[0]["logits"]) for each in several)
        if recipe != FLOAT:
            (one,) = in_processes(1, measured, recipe, False, args.tokens, dtype, False)
            equal = equal and torch.equal(several[0]["logits"], one["logits"])
        row = {key: max(each[key] for each in several) for key in several[0] if key != "logits"}
        name = f"{recipe}, float weights released" if free else recipe
        rows[name] = {**row, "logits": "those of one process" if equal and recipe != FLOAT else f"equal in all processes: {equal}"}
        print(name, rows[name], flush=True)
    about = common.about(
        1, processes=args.processes, tokens=args.tokens, dtype=args.dtype, cores=os.cpu_count(), load=os.getloadavg()[0], calls=CALLS
    )
    print("written to", common.write(f"fully_sharded_{args.dtype}_{args.processes}.json", {"about": about, "rows": rows}))


if __name__ == "__main__":
    main()
