"""Seconds and bytes of a decoder spread over ranks: by tensor, by pipeline, and in replicas.

The seconds of one rank's layer are measured at its true shapes (ranks.py); here they are put together with what the links take.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Decoder:
    """The sizes of a Llama-like model."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    layers: int
    vocabulary: int
    head_dim: int = 128

    def shard(self, ranks: int) -> "Decoder":
        """Return what one of ``ranks`` has of every layer: its heads, and its part of the feed-forward layer.

        Raises:
            ValueError: the heads do not divide.
        """
        if self.heads % ranks or self.kv_heads % ranks or self.intermediate % ranks:
            raise ValueError(f"{self.heads} heads, {self.kv_heads} key heads and {self.intermediate} features do not divide by {ranks}")
        return replace(self, heads=self.heads // ranks, kv_heads=self.kv_heads // ranks, intermediate=self.intermediate // ranks)

    @property
    def layer_weights(self) -> int:
        """Numbers in the seven matrices of a layer."""
        return self.hidden * (2 * (self.heads + self.kv_heads) * self.head_dim + 3 * self.intermediate)


@dataclass(frozen=True)
class Layout:
    """How many ranks share a layer, how many stages follow one another, how many replicas there are."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1


@dataclass(frozen=True)
class Link:
    """What lies between two ranks: seconds before the first byte, and bytes a second."""

    latency: float
    bandwidth: float

    def send(self, size: float) -> float:
        """Return the seconds of ``size`` bytes from one rank to another."""
        return self.latency + size / self.bandwidth

    def all_reduce(self, size: float, ranks: int) -> float:
        """Return the seconds of a ring's sum of ``size`` bytes: 2 (ranks - 1) steps of a part each (Patarasuk and Yuan, 2009)."""
        return 2 * (ranks - 1) * self.send(size / ranks)


@dataclass(frozen=True)
class Pieces:
    """What was measured of one rank: seconds of a layer and of all that is not in layers (norm, head), for a number of tokens."""

    layer: Callable[[int], float]
    rest: Callable[[int], float]


def step(model: Decoder, layout: Layout, pieces: Pieces, link: Link, tokens: int, parts: int = 1, number: int = 2) -> float:
    """Return the seconds in which ``tokens`` tokens, in ``parts`` microbatches, pass all layers of one replica.

    Each layer ends its two halves with a sum over its ranks, of ``number`` bytes a feature; stages hand on the same, beside their work but for
    the first microbatch. The fullest stage counts: it has the head.
    """
    mine = math.ceil(tokens / parts)
    size = mine * model.hidden * number
    layer = pieces.layer(mine) + 2 * link.all_reduce(size, layout.tensor)
    stage = math.ceil(model.layers / layout.pipeline) * layer + pieces.rest(mine)
    return (layout.pipeline + parts - 1) * stage + (layout.pipeline - 1) * link.send(size)


def memory(model: Decoder, layout: Layout, bits: float, context: int, sequences: int) -> float:
    """Return the bytes of the fullest rank: weights of ``bits`` each, embedding and head in bfloat16, keys and values in bfloat16."""
    stage = math.ceil(model.layers / layout.pipeline)
    weights = stage * model.layer_weights / layout.tensor * bits / 8
    ends = 2 * model.vocabulary * model.hidden * (2 if layout.pipeline == 1 else 1)
    cache = 2 * 2 * stage * model.kv_heads / layout.tensor * model.head_dim * context * sequences
    return weights + ends + cache
