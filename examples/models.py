"""Models for the command line: `lowbit explain examples/models.py:mlp`, `lowbit dump examples/models.py:attention --out lowbit_dump`."""

import torch
from torch import Tensor, nn

Example = tuple[nn.Module, tuple[Tensor, ...]]


def mlp() -> Example:
    """Two linear layers around a GELU."""
    layers = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256))
    return layers.eval().bfloat16(), (torch.randn(32, 256).bfloat16(),)


def attention() -> Example:
    """One encoder layer, with the attention that torch.nn brings."""
    layer = nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True)
    return layer.eval(), (torch.randn(1, 64, 256),)


def llama() -> Example:
    """A randomly initialised Llama of two layers (needs transformers)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_cache=False,
    )
    return LlamaForCausalLM(config).eval().bfloat16(), (torch.randint(0, 1000, (1, 32)),)
