"""What is measured for the model of costs: one rank's layer, alone or beside the other ranks, and sums over the ranks."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
import transformers
from cost import Decoder, Link, Pieces
from torch import Tensor, nn

ROUNDS, WARM = 41, 3
DEPTHS = (1, 3)
"""Layers of the two models of which a layer's seconds are the difference."""
SUMS = 4
"""Sums in a row that are timed, each after some work."""


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
    run = _compiled(model, recipe)
    return lambda x: run(inputs_embeds=x, use_cache=False).last_hidden_state  # type: ignore[no-any-return]


def half_a_layer(model: Decoder, recipe: str, x: Tensor) -> Callable[[], object]:
    """Return a call of what is between two sums over the ranks, the feed-forward part of a layer."""
    return partial(_compiled(llama(model, 1).layers[0].mlp, recipe), x)


def _compiled(model: nn.Module, recipe: str) -> Callable[..., Any]:
    return torch.compile(model, backend="lowbit", options={"recipe": recipe, "plan": "always"}, dynamic=False)  # type: ignore[no-any-return]


@torch.no_grad()
def seconds(calls: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Return the median seconds of each call, by turns: a machine's speed drifts.

    Where there are ranks, all begin a call together and the slowest counts.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(WARM + rounds):
        for name, call in calls.items():
            if dist.is_initialized():
                dist.barrier()
            start = time.perf_counter()
            call()
            if turn >= WARM:
                times[name].append(time.perf_counter() - start)
    found = torch.tensor(list(times.values()), dtype=torch.float64)
    if dist.is_initialized():
        dist.all_reduce(found, dist.ReduceOp.MAX)
    return dict(zip(times, found.median(1).values.tolist(), strict=True))


def layers(make: Callable[[int], Any], recipe: str, x: Tensor) -> dict[str, Callable[[], object]]:
    """Return calls of ``make(depth)``, models of two depths: what a layer takes is in their difference (:func:`parted`)."""
    return {f"{depth} layers": partial(compiled(make(depth), recipe), x) for depth in DEPTHS}


def parted(found: Mapping[str, float]) -> Pieces:
    """Return the seconds of one layer, and of what is beside layers, for the tokens of those calls."""
    few, many = (found[f"{depth} layers"] for depth in DEPTHS)
    each = (many - few) / (DEPTHS[1] - DEPTHS[0])
    rest = max(few - DEPTHS[0] * each, 0.0)
    return Pieces(lambda _: each, lambda _: rest)


def sums(sizes: Sequence[int], work: Callable[[], object]) -> dict[str, Callable[[], object]]:
    """Return calls that add up ``sizes`` bytes of bfloat16 over all ranks, as compiled graphs do: between work, after which ranks wait for one another.

    One after the other, with nothing between, they take half as long: nobody has to be woken.
    """

    def between(x: Tensor | None) -> None:
        for _ in range(SUMS):
            work()
            if x is not None:
                _sum(x)

    given = {f"{size} bytes": torch.zeros(size // 2, dtype=torch.bfloat16) for size in sizes}
    return {"work": partial(between, None), **{name: partial(between, x) for name, x in given.items()}}


def _sum(x: Tensor) -> Tensor:
    result: Tensor = functional.wait_tensor(functional.all_reduce(x, "sum", dist.group.WORLD))
    return result


def link(found: Mapping[str, float], sizes: Sequence[int], ranks: int) -> Link:
    """Return the link that explains the sums of ``sizes`` bytes best: least squares of relative errors, neither part below nothing."""
    steps = 2 * (ranks - 1)
    times = torch.tensor([(found[f"{size} bytes"] - found["work"]) / SUMS for size in sizes], dtype=torch.float64).clamp(min=1e-6)
    parts = torch.tensor([[steps, steps * size / ranks] for size in sizes], dtype=torch.float64) / times[:, None]
    one = torch.ones(len(sizes), 1, dtype=torch.float64)
    latency, slope = torch.linalg.lstsq(parts, one).solution.flatten().tolist()
    if latency < 0 or slope < 0:  # the best on the edge: one of the two alone
        column = 0 if slope < 0 else 1
        alone = torch.linalg.lstsq(parts[:, [column]], one).solution.item()
        latency, slope = (alone, 0.0) if column == 0 else (0.0, alone)
    return Link(latency, 1 / slope if slope else math.inf)
