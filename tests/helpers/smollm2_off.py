"""SmolLM2-135M-Instruct off its grid: the same function, with weights that no longer lie on the 4-bit grid that the file stores them on.

The package has the weights in Q4_1: each group of 32 lies on a line of 16 numbers, so any such format would find them again and cost
nothing. Random scales of channels, taken back in the next layer, leave the model as it is and its groups on no line.
"""

from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from lowbit_compiler.demo import model
from lowbit_compiler.demo.model import LoadedModel

LEAST, MOST = 0.8, 1.25
SEED = 16


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
        _move(layer.input_layernorm.weight, [attention.q_proj, attention.k_proj, attention.v_proj], generator)
        _move(layer.post_attention_layernorm.weight, [mlp.gate_proj, mlp.up_proj], generator)
        _move(attention.v_proj.weight, [attention.o_proj], generator, repeated=heads // shared, width=attention.head_dim)
        _move(mlp.up_proj.weight, [mlp.down_proj], generator)


def _move(source: Tensor, readers: list[nn.Linear], generator: torch.Generator, repeated: int = 1, width: int = 0) -> None:
    """Multiply the rows of ``source``, divide the columns of ``readers``: each head of ``width`` rows is read ``repeated`` times."""
    share = torch.rand(len(source), generator=generator, dtype=torch.float64)
    scales = (LEAST * (MOST / LEAST) ** share).to(source.dtype)
    source.mul_(scales.reshape(-1, *[1] * (source.dim() - 1)))
    back = scales.reshape(-1, width).repeat_interleave(repeated, 0).flatten() if width else scales
    for reader in readers:
        reader.weight.div_(back)
