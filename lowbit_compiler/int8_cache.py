"""A key-value cache in int8 for models of transformers: half the memory of bfloat16, and half of what a decoding step reads.

The only file that touches transformers' caches (transformers.cache_utils, 5.x); tests/e2e/test_int8_cache.py holds what it relies on.
"""

from typing import Any

import torch
from torch import Tensor

import lowbit_compiler.runtime.ops  # noqa: F401 - defines quantize_s8
from lowbit_compiler.runtime.require import FLOAT, FLOATS
from lowbit_compiler.torch_internals import dynamo

try:
    from transformers.cache_utils import Cache, StaticLayer, get_layer_types_and_kwargs
except ImportError as error:
    raise ImportError(f"lowbit_compiler.Int8Cache needs transformers 5 or newer (pip install 'transformers>=5'): {error}") from error


class Int8Layer(StaticLayer):
    """The keys and values of one layer: int8 codes [B, G, S, E] and float32 scales [B, G, S, 1], one for each token and head.

    Codes and scales are those of ``quantize_s8`` (docs/arithmetic.md). What :meth:`update` returns is written in plain torch, for every
    backend; lowbit's attention reads the codes instead.
    """

    keys: Tensor
    values: Tensor
    key_scales: Tensor
    value_scales: Tensor

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate codes and scales for the batch, heads and widths of ``key_states`` and ``value_states``."""
        super().lazy_initialization(*(torch.empty_like(states, dtype=torch.int8) for states in (key_states, value_states)))
        self.dtype = key_states.dtype
        self.key_scales, self.value_scales = (
            torch.zeros((self.batch_size, self.num_heads, self.max_cache_len, 1), dtype=torch.float32, device=self.device) for _ in range(2)
        )
        dynamo.stays_in_place(self.key_scales, self.value_scales)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Quantize and store the keys [B, G, L, E] and values [B, G, L, F] of L tokens.

        Returns:
            All keys and values, dequantized to the dtype of the first ones.

        Raises:
            ValueError: of another dtype, or of other sizes than the first ones, or more than fit; where the step is compiled, tokens that do not
                fit behind those that are there raise IndexError, as in a StaticCache.
        """
        for name, states in (("keys", key_states), ("values", value_states)):
            if states.dtype not in FLOATS or states.dtype is not (self.dtype if self.is_initialized else key_states.dtype):
                raise ValueError(f"Int8Cache: expected {name} in {FLOAT}, all in one of them; got {states.dtype}")
        tokens = key_states.shape[-2]
        there = int(self.cumulative_length) if self.is_initialized and not torch.compiler.is_compiling() else 0
        if there + tokens > self.max_cache_len:
            behind = f" behind the {there} that are there" if there else ""
            raise ValueError(f"Int8Cache: expected at most {self.max_cache_len - there} tokens{behind}, got {tokens}")
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        for name, states, codes in (("keys", key_states, self.keys), ("values", value_states, self.values)):
            b, g, _, width = codes.shape
            if tuple(states.shape) != (b, g, tokens, width):
                raise ValueError(f"Int8Cache: expected {name} of shape ({b}, {g}, {tokens}, {width}), got {tuple(states.shape)}")
        places = torch.arange(tokens, device=self.device) + self.cumulative_length
        stored = ((self.keys, self.key_scales), (self.values, self.value_scales))
        for (codes, scales), states in zip(stored, (key_states, value_states), strict=True):
            new_codes, new_scales = torch.ops.lowbit.quantize_s8(states)
            codes.index_copy_(2, places, new_codes)
            scales.index_copy_(2, places, new_scales)
        self.cumulative_length.add_(tokens)
        # After all that is written: attention may then read the codes instead (passes/codes.py).
        keys, values = ((codes.to(torch.float32) * scales).to(self.dtype) for codes, scales in stored)
        return keys, values

    def reset(self) -> None:
        """Forget all tokens; the memory stays."""
        super().reset()
        if self.is_initialized:
            self.key_scales.zero_()
            self.value_scales.zero_()

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Reorder the sequences of the batch, for beam search."""
        super().reorder_cache(beam_idx)
        if self.is_initialized:
            self.key_scales, self.value_scales = (x.index_select(0, beam_idx.to(x.device)) for x in (self.key_scales, self.value_scales))


class Int8Cache(Cache):
    """A static cache of ``max_cache_len`` tokens in int8, for ``model(..., past_key_values=cache)`` and ``generate``.

    Args:
        config: Of the model; all layers that keep keys and values must attend to the whole sequence.
        max_cache_len: Places, at least 1.

    Raises:
        ValueError: a layer is of another kind, or ``max_cache_len`` is no such number.
    """

    def __init__(self, config: Any, max_cache_len: int) -> None:
        if not isinstance(max_cache_len, int) or max_cache_len < 1:
            raise ValueError(f"Int8Cache: expected max_cache_len of at least 1, got {max_cache_len!r}")
        kinds, _ = get_layer_types_and_kwargs(config.get_text_config(decoder=True))
        if other := sorted(set(kinds) - {"full_attention"}):
            raise ValueError(f"Int8Cache: expected layers of full_attention, got {', '.join(other)}")
        super().__init__(layers=[Int8Layer(max_cache_len) for _ in kinds])
