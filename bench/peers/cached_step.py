"""The decoding step for runtimes outside torch: the cache as plain tensors, in and out."""

from typing import Any

import torch
from tasks import Task
from torch import Tensor, nn


class CachedStep(nn.Module):
    """Takes a token, its position, and keys and values of every layer; returns logits, and keys and values one token longer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, ids: Tensor, position: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Compute one step."""
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        cache: Any = DynamicCache()
        for key, value in zip(past[::2], past[1::2], strict=True):
            layer = DynamicLayer()
            layer.lazy_initialization(key, value)
            layer.keys, layer.values = key, value  # set, not appended: exporters stumble over joining with nothing
            cache.layers.append(layer)
        mask = torch.zeros(1, 1, 1, past[0].shape[2] + 1, dtype=past[0].dtype)  # one query sees every key
        logits = self.net(input_ids=ids, position_ids=position, attention_mask=mask, past_key_values=cache).logits
        return logits, *(t for layer in cache.layers for t in (layer.keys, layer.values))


def names(layers: int, prefix: str) -> list[str]:
    """Return a name for every tensor of the cache."""
    return [f"{prefix}.{i}.{part}" for i in range(layers) for part in ("key", "value")]


def explicit(task: Task, tokens: int) -> tuple[CachedStep, tuple[Tensor, ...]]:
    """Return the step of ``task`` and its inputs, with ``tokens`` in the cache after it."""
    net: Any = task.net
    past = tokens - 1
    layers = task.inputs[1].layers  # type: ignore[attr-defined]
    tensors = [t[:, :, :past].clone() for layer in layers for t in (layer.keys, layer.values)]
    return CachedStep(net.net), (task.inputs[0], torch.tensor([[past]]), *tensors)
