"""Calibration text that a language model writes itself (LLM-QAT, arXiv 2305.17888, section 3.1)."""

from typing import Any

import torch
from torch import Tensor, nn

from lowbit_compiler.errors import OptionError

SELF = "self"
SEQUENCES, TOKENS = 16, 512
SEED = 0
NEEDS = (
    "data='self' takes a language model that is called with token ids and use_cache=True, returns logits and past_key_values, and has "
    "config.vocab_size, as causal ones of transformers do"
)


def own_text(model: nn.Module) -> list[Tensor]:
    """Return token ids, int64 [1, T] each: after BOS a random token, then what ``model`` says, drawn at temperature 1 from one seed.

    T is 512, or what the model takes at most. Raises OptionError where the model cannot do that.
    """
    config = getattr(model, "config", None)
    vocabulary = getattr(config, "vocab_size", None)
    if not isinstance(vocabulary, int) or getattr(config, "is_encoder_decoder", False):
        raise OptionError(f"{NEEDS}; got {type(model).__name__}")
    most = getattr(config, "max_position_embeddings", None)
    length = min(TOKENS, most) if isinstance(most, int) else TOKENS
    generator = torch.Generator().manual_seed(SEED)
    device = next(model.parameters()).device
    begin = getattr(config, "bos_token_id", None)
    ids = torch.randint(vocabulary, (SEQUENCES, 1), generator=generator)
    if isinstance(begin, int):
        ids = torch.cat([torch.full_like(ids, begin), ids], 1)
    cache: Any = None
    step = ids
    while ids.shape[1] < length:
        logits, cache = _next(model, step.to(device), cache)
        if logits.shape[0] != SEQUENCES or logits.dim() != 3:
            raise OptionError(f"{NEEDS}; the logits of {type(model).__name__} are {tuple(logits.shape)} for {SEQUENCES} sequences")
        step = torch.multinomial(torch.softmax(logits[:, -1].float().cpu(), -1), 1, generator=generator)
        ids = torch.cat([ids, step], 1)
    return list(ids.to(device).split(1))


def _next(model: nn.Module, ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
    try:
        output = model(ids, past_key_values=cache, use_cache=True)
        logits, cache = output.logits, output.past_key_values
    except (TypeError, AttributeError) as error:
        raise OptionError(f"{NEEDS}; {type(model).__name__} does not: {error}") from error
    if cache is None:
        raise OptionError(f"{NEEDS}; {type(model).__name__} returned no past_key_values")
    return logits, cache
