"""Fine-tuning the sentence encoder step by step, so that several may take their steps in turns."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowbit_compiler.demo import minilm
from lowbit_compiler.demo.sentences import TOPICS, Labeled, learned_and_held

BATCH, LENGTH = 16, 24
STEPS, WARM, RATE = 120, 10, 2e-4
OPTIONS = {"remainder": "eager", "plan": "always"}
"""So few steps do not pay for Inductor's compilation, nor for timing what evaluates them."""


@dataclass(frozen=True)
class Tokens:
    """Sentences: ids and mask int64 [S, LENGTH], and their topics int64 [S]."""

    ids: Tensor
    mask: Tensor
    topics: Tensor

    def pick(self, which: Tensor) -> "Tokens":
        """Return those whose numbers are in ``which`` int64 [B]."""
        return Tokens(self.ids[which], self.mask[which], self.topics[which])


class Task:
    """The encoder as it was pretrained, its tokenizer, and the sentences; raises FileNotFoundError where the encoder is not installed."""

    def __init__(self) -> None:
        self.encoder, self.tokenizer = minilm.load()
        learned, held = learned_and_held()
        self.learned, self.held = self._tokens(learned), self._tokens(held)

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Return sentences that are about nothing that is known."""
        return self._tokens([Labeled(text, 0) for text in texts])

    def _tokens(self, sentences: Sequence[Labeled]) -> Tokens:
        texts = [one.text for one in sentences]
        made = self.tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
        return Tokens(made["input_ids"], made["attention_mask"], torch.tensor([one.topic for one in sentences]))

    def student(self, seed: int) -> nn.Module:
        """Return the encoder with a new head, which ``seed`` draws; its embeddings do not learn."""
        torch.manual_seed(seed)
        model = minilm.Classifier(copy.deepcopy(self.encoder), len(TOPICS)).requires_grad_(True)
        model.encoder.embeddings.requires_grad_(False)
        return model

    def batches(self, seed: int, steps: int) -> Iterator[Tokens]:
        """Yield ``steps`` batches of the sentences to learn from, in an order that ``seed`` draws."""
        generator, count = torch.Generator().manual_seed(seed), len(self.learned.topics)
        rounds = -(-steps * BATCH // count)
        order = torch.cat([torch.randperm(count, generator=generator) for _ in range(rounds)])
        for which in order[: steps * BATCH].split(BATCH):
            yield self.learned.pick(which)


class Training:
    """A model with its optimizer, whose rate rises, then falls to nothing in ``steps``; ``run`` is what computes the model."""

    def __init__(self, model: nn.Module, run: Callable[..., Tensor], steps: int) -> None:
        self.run, self.curve = run, list[float]()
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(learning, RATE, weight_decay=0.01)
        self._rate = torch.optim.lr_scheduler.LambdaLR(self._optimizer, lambda step: min(1.0, (step + 1) / WARM) * (1 - step / steps))

    def step(self, batch: Tokens) -> None:
        """Learn from a batch."""
        loss = F.cross_entropy(self.run(batch.ids, batch.mask).float(), batch.topics)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._rate.step()
        self.curve.append(loss.item())

    @torch.no_grad()
    def logits(self, tokens: Tokens) -> Tensor:
        """Return float32 [S, topics]: batches of one shape, the last filled up with its last sentence."""
        fill = torch.arange(-(-len(tokens.ids) // BATCH) * BATCH).clamp(max=len(tokens.ids) - 1)
        parts = [tokens.pick(which) for which in fill.split(BATCH)]
        return torch.cat([self.run(part.ids, part.mask).float() for part in parts])[: len(tokens.ids)]

    def accuracy(self, tokens: Tokens) -> float:
        """Return the share of sentences whose topic is the most likely one."""
        return float((self.logits(tokens).argmax(1) == tokens.topics).double().mean())


def compiled(model: nn.Module, recipe: str, **options: Any) -> Callable[..., Tensor]:
    """Return ``model`` compiled to train with ``recipe``."""
    return torch.compile(model, backend="lowbit", options={"recipe": recipe, **OPTIONS, **options})
