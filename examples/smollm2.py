"""SmolLM2-135M-Instruct for the command line: `lowbit profile examples/smollm2.py:prompt` (needs the demo's packages, see README.md)."""

import torch
from torch import Tensor, nn

from lowbit_compiler.demo.model import load
from lowbit_compiler.demo.text import token_ids

Example = tuple[nn.Module, tuple[Tensor, ...]]


def _example(tokens: int) -> Example:
    loaded = load(torch.bfloat16)
    loaded.model.config.use_cache = False
    return loaded.model, (token_ids(loaded.tokenizer, "english")[:, :tokens].clone(),)


def prompt() -> Example:
    """512 tokens of English prose."""
    return _example(512)


def token() -> Example:
    """One token."""
    return _example(1)
