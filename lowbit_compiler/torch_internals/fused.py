"""Functions of torch that have no public name: fused forwards of its own modules, and the int8 product."""

from typing import Any

import torch

NATIVE_ATTENTION: tuple[Any, ...] = (torch._native_multi_head_attention, torch.ops.aten._native_multi_head_attention.default)
ENCODER_LAYER: tuple[Any, ...] = (torch._transformer_encoder_layer_fwd, torch.ops.aten._transformer_encoder_layer_fwd.default)

int_mm: Any = torch._int_mm
"""int8 [M, K] times int8 [K, N] -> int32 [M, N]."""
