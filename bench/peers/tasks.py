"""The models and inputs of the cases, as torch modules that take tensors and return one tensor."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from columns import Case
from torch import Tensor, nn

from lowbit_compiler.demo import minilm, model, text

ROOM = 32  # decoding steps between two rewinds
TEXT_TOKENS = 2560


@dataclass
class Task:
    """``net(*inputs)`` is what a contestant has to compute, as fast as it can."""

    net: nn.Module
    inputs: tuple[Tensor, ...]
    rewind: Callable[[], None] = lambda: None


class Around(nn.Module):
    """One way to call ``net``."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


class Logits(Around):
    """A language model without a cache."""

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits of every token."""
        logits: Tensor = self.net(input_ids=ids, use_cache=False).logits
        return logits


class Step(Around):
    """One decoding step of a language model on a cache of fixed size."""

    def forward(self, ids: Tensor, cache: Any) -> Tensor:
        """Return the logits after the last token, which joins the cache."""
        logits: Tensor = self.net(input_ids=ids, past_key_values=cache).logits
        return logits


class Hidden(Around):
    """A sentence encoder."""

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the vector of every token."""
        hidden: Tensor = self.net(input_ids=ids, attention_mask=mask).last_hidden_state
        return hidden


def text_ids() -> Tensor:
    """Return the tokens of the text that perplexity is measured on, which are also the inputs of the timed runs."""
    from transformers import PreTrainedTokenizerFast

    file = model.GGUFFile(model.model_folder() / model.FILE)
    return text.token_ids(model._tokenizer(file.fields, PreTrainedTokenizerFast), "english", TEXT_TOKENS)


def load(case: Case, dtype: torch.dtype) -> Task:
    """Return what ``case`` runs on, its weights in ``dtype``."""
    if case.kind == "linear":
        return _linear(case, dtype)
    return _sentences(case, dtype) if case.kind == "sentences" else _language(case, dtype)


def inputs_only(case: Case) -> Task:
    """Return the tokens of a case of the language model, for a contestant that reads the model's file itself."""
    ids = text_ids()
    if case.cached:
        start = start_of(case)
        return Task(nn.Identity(), (ids[:, start : start + case.new].repeat(case.batch, 1),))
    return Task(nn.Identity(), (ids[0, : case.batch * case.tokens].reshape(case.batch, -1).clone(),))


def start_of(case: Case) -> int:
    """Return how many tokens the cache of a case holds before the first step and after a rewind."""
    return case.tokens - ROOM * case.new


def _language(case: Case, dtype: torch.dtype) -> Task:
    ids = inputs_only(case).inputs[0]
    net: Any = model.load(dtype).model
    if case.kind == "prefill":
        return Task(Logits(net), (ids,))
    from transformers import StaticCache

    cache: Any = StaticCache(config=net.config, max_cache_len=case.tokens)
    start = start_of(case)
    net(input_ids=text_ids()[:, :start].repeat(case.batch, 1), past_key_values=cache, logits_to_keep=1)

    def rewind() -> None:
        for layer in cache.layers:
            layer.cumulative_length.fill_(start)

    return Task(Step(net), (ids, cache), rewind)


def _sentences(case: Case, dtype: torch.dtype) -> Task:
    net, tokenizer = minilm.load(dtype)
    passages = text.english().split("\n\n")[: case.batch]  # of their natural lengths: most rows end in padding
    tokens = tokenizer(passages, padding="max_length", truncation=True, max_length=case.tokens, return_tensors="pt")
    return Task(Hidden(net.requires_grad_(False)), (tokens["input_ids"], tokens["attention_mask"]))


def _linear(case: Case, dtype: torch.dtype) -> Task:
    generator = torch.Generator().manual_seed(0)
    net = nn.Linear(case.inputs, case.outputs, bias=False, dtype=dtype).requires_grad_(False)
    net.weight.copy_(torch.randn(net.weight.shape, generator=generator) / case.inputs**0.5)
    x = torch.randn(case.tokens, case.inputs, generator=generator)
    x[:, :: max(case.inputs // 8, 1)] *= 8  # a few outlier columns, as real activations have
    return Task(net, (x.to(dtype),))
