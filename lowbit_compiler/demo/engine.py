"""A language model compiled twice: for one token against a static key/value cache, and for a window of tokens.

Two fixed shapes, because that is the quickest way to an answer. Measured for the 30 layers of the demo's model, Inductor, CPU time on
one core: one fixed shape 64 s (with or without a cache), one graph of any length 152 s, and two shapes before the answer would be too
late. So the prompt goes through the one-token graph token by token (one second), and the window's graph is compiled once the
answer stands. Compiling layer by layer does not help: the layers share their code, but each one's index into the cache is a guard,
so there are 30 compilations all the same.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.demo.model import LoadedModel
from lowbit_compiler.errors import OptionError

CONTEXT = 256  # room in the cache: question and answer together
WINDOW = 512


@dataclass
class Answer:
    """One answer as it is generated; the times are complete when `tokens` is exhausted."""

    prompt_tokens: int
    first_token: float = 0.0
    per_token: list[float] = field(default_factory=list)


class Engine:
    """`backend` is what torch.compile takes, "eager" for the model as it is."""

    def __init__(self, loaded: LoadedModel, backend: str, options: dict[str, Any] | None = None) -> None:
        from transformers import StaticCache

        self._tokenizer = loaded.tokenizer
        config: Any = loaded.model.config
        self._run: Callable[..., Any] = loaded.model
        if backend != "eager":
            # Not dynamic: after a second length Dynamo would turn to one graph for all lengths (above).
            self._run = torch.compile(loaded.model, backend=backend, options=options, fullgraph=True, dynamic=False)
        self._cache: Any = StaticCache(config=config, max_cache_len=CONTEXT)
        head_dim = config.hidden_size // config.num_attention_heads
        self._cache.early_initialization(1, config.num_key_value_heads, head_dim, loaded.dtype, torch.device("cpu"))
        self._stop = config.eos_token_id

    @torch.no_grad()
    def step(self, token: int) -> Tensor:
        """Append one token to the cache; returns the logits [vocabulary] that follow it. The first call compiles."""
        logits: Tensor = self._run(input_ids=torch.tensor([[token]]), past_key_values=self._cache).logits
        return logits[0, -1]

    @torch.no_grad()
    def window(self, ids: Tensor) -> Tensor:
        """The logits of a whole window [1, WINDOW], without a cache. The first call compiles."""
        logits: Tensor = self._run(input_ids=ids, use_cache=False).logits
        return logits

    def reset(self) -> None:
        self._cache.reset()

    def prompt(self, question: str) -> list[int]:
        ids = self._tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True, tokenize=True)
        return list(ids["input_ids"] if hasattr(ids, "keys") else ids)

    def generate(self, prompt: list[int], answer: Answer) -> Iterator[int]:
        """Greedy decoding until the model stops or the cache is full; yields tokens and fills in the times."""
        self.reset()
        start = time.perf_counter()
        for token in prompt:
            logits = self.step(token)
        token = int(logits.argmax())
        answer.first_token = time.perf_counter() - start
        for _ in range(CONTEXT - len(prompt)):
            if token == self._stop:
                return
            yield token
            start = time.perf_counter()
            token = int(self.step(token).argmax())
            answer.per_token.append(time.perf_counter() - start)

    def answer(self, question: str, say: Callable[[str], None]) -> Answer:
        """Answer the question, calling `say` with each new piece of text."""
        prompt = self.prompt(question)
        if len(prompt) >= CONTEXT:
            raise OptionError(f"--question: it has {len(prompt)} tokens with its chat frame, the demo takes at most {CONTEXT - 1}")
        answer, tokens, said = Answer(len(prompt)), [], ""
        for token in self.generate(prompt, answer):
            tokens.append(token)
            text = self._tokenizer.decode(tokens)
            if not text.endswith("\ufffd"):  # a character may need several tokens
                say(text[len(said) :])
                said = text
        return answer
