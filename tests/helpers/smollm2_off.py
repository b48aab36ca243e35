"""SmolLM2-135M-Instruct off its grid: the same function, with weights that no longer lie on the 4-bit grid that the file stores them on.

The package has the weights in Q4_1: each group of 32 lies on a line of 16 numbers, so any such format would find them again and cost
nothing. Random scales of channels, taken back in the next layer, leave the model as it is and its groups on no line.
"""

import math
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from lowbit_compiler.demo import model
from lowbit_compiler.demo.model import LoadedModel

LEAST, MOST = 0.8, 1.25
SEED = 1


def load(dtype: torch.dtype = torch.float32, console: Console | None = None) -> LoadedModel:
    """Return SmolLM2 with scaled channels; raises FileNotFoundError where its package is not installed."""
    loaded = model.load(dtype, console)
    scale_channels(loaded.model, SEED)
    return loaded


@torch.no_grad()
def scale_channels(network: Any, seed: int) -> None:
    """Scale norms and take it back in q, k, v, gate and up; v, and back in o; up, and back in down; from 0.8 to 1.25, evenly in logarithms.

    ``network``: a transformers LlamaForCausalLM, changed in place. Each weight is rounded once or twice more.
    """
    generator = torch.Generator().manual_seed(seed)
    heads, shared = network.config.num_attention_heads, network.config.num_key_value_heads
    for layer in network.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for norm, readers in (
            (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
        ):
            scales = _scales(norm.weight, generator)
            norm.weight.div_(scales)
            for reader in readers:
                reader.weight.mul_(scales)
        scales = _scales(mlp.up_proj.weight, generator)
        mlp.up_proj.weight.mul_(scales[:, None])
        mlp.down_proj.weight.div_(scales)
        scales = _scales(attention.v_proj.weight, generator)
        attention.v_proj.weight.mul_(scales[:, None])
        each = scales.reshape(shared, 1, attention.head_dim).expand(
            shared, heads // shared, attention.head_dim
        )  # a value head has several readers
        attention.o_proj.weight.div_(each.flatten())


def _scales(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Return a scale for each row."""
    logarithms = torch.empty(len(rows)).uniform_(math.log(LEAST), math.log(MOST), generator=generator)
    return logarithms.exp().to(rows.dtype)
