"""What is measured for the model of costs: one rank's layer, alone or beside the other ranks, and sums over the ranks."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import transformers
from cost import Decoder, Link
from torch import Tensor, nn

ROUNDS = 15


def llama(model: Decoder, layers: int, dtype: torch.dtype = torch.bfloat16) -> Any:
    """Return the decoder with random weights, ``layers`` deep, without embedding or head."""
    config = transformers.LlamaConfig(
        hidden_size=model.hidden,
        intermediate_size=model.intermediate,
        num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads,
        head_dim=model.head_dim,
        num_hidden_layers=layers,
        vocab_size=16,
    )
    torch.set_default_dtype(dtype)
    try:
        return transformers.LlamaModel(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)


def compiled(model: nn.Module, recipe: str) -> Callable[[Tensor], Tensor]:
    """Return the model as a function of [1, T, hidden]."""
    torch.compiler.reset()
    run = torch.compile(model, backend="lowbit", options={"recipe": recipe, "plan": "always"}, dynamic=False)
    return lambda x: run(inputs_embeds=x, use_cache=False).last_hidden_state  # type: ignore[no-any-return]


@torch.no_grad()
def seconds(call: Callable[[], object]) -> float:
    """Return the median seconds of a call; where there are ranks, all begin together and the slowest counts."""
    for _ in range(3):
        call()
    times = []
    for _ in range(ROUNDS):
        if dist.is_initialized():
            dist.barrier()
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    found = torch.tensor(statistics.median(times), dtype=torch.float64)
    if dist.is_initialized():
        dist.all_reduce(found, dist.ReduceOp.MAX)
    return found.item()


def layer(shard: Decoder, recipe: str, tokens: int, depths: tuple[int, int] = (2, 6)) -> tuple[float, float]:
    """Return the seconds of one layer of these sizes, and of what is beside layers, by the difference between two depths."""
    x = torch.randn(1, tokens, shard.hidden, dtype=torch.bfloat16)
    few, many = (seconds(partial(compiled(llama(shard, depth), recipe), x)) for depth in depths)
    each = (many - few) / (depths[1] - depths[0])
    return each, max(few - depths[0] * each, 0.0)


def link(sizes: Sequence[int], ranks: int) -> Link:
    """Return the link that explains the sums of ``sizes`` bytes of bfloat16 best: least squares of relative errors."""
    times = [seconds(partial(dist.all_reduce, torch.zeros(size // 2, dtype=torch.bfloat16))) for size in sizes]
    steps = 2 * (ranks - 1)
    weight = 1 / torch.tensor(times, dtype=torch.float64)
    a = torch.tensor([[steps, steps * size / ranks] for size in sizes], dtype=torch.float64) * weight[:, None]
    latency, slope = torch.linalg.lstsq(a, torch.ones(len(sizes), 1, dtype=torch.float64)).solution.flatten().tolist()
    return Link(max(latency, 0.0), 1 / max(slope, 1e-15))
