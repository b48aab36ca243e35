"""The models that bench/accuracy/int4.py measures, each with what it is run on and where the next token is told from the logits."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

from helpers import smollm2_off, whisper
from lowbit_compiler.demo import text

WINDOW = 512
AT_ONCE, LONGEST = 4, 96
"""Sentences in a call, and the tokens that each is filled up to: one shape, one compilation."""
UNCOUNTED = -100
"""A label that counts for nothing, as in torch's cross_entropy."""


@dataclass(frozen=True)
class Sample:
    """One call: keyword arguments, and the token [B, T] that each row of the logits [B, T, vocabulary] is to foretell."""

    inputs: dict[str, Any]
    labels: Tensor


@dataclass(frozen=True)
class Subject:
    """A model, its texts, and what a preparation may look at."""

    network: nn.Module
    texts: dict[str, list[Sample]]
    calibration: list[Any] = field(default_factory=list)

    def each(self) -> Iterator[tuple[str, Sample]]:
        """Yield every sample with its text's name."""
        for name, samples in self.texts.items():
            yield from ((name, sample) for sample in samples)


def windows(ids: Tensor, at_once: int, first: int | None = None) -> list[Sample]:
    """Return ``ids`` [1, tokens] in windows of 512, ``at_once`` in a call, each beginning with the token ``first`` where there is one."""
    size = WINDOW - (first is not None)
    whole = ids[0, : ids.shape[1] // (size * at_once) * size * at_once].reshape(-1, size)
    tokens = torch.nn.functional.pad(whole, (1, 0), value=first) if first is not None else whole
    labels = torch.nn.functional.pad(tokens[:, 1:], (0, 1), value=UNCOUNTED)
    parts = zip(tokens.split(at_once), labels.split(at_once), strict=True)
    return [Sample({"input_ids": some.contiguous(), "use_cache": False}, label) for some, label in parts]


def off(tokens: int, console: Console) -> Subject:
    """SmolLM2-135M off its grid (tests/helpers/smollm2_off.py)."""
    loaded = smollm2_off.load(torch.float32, console)
    return Subject(loaded.model, {name: windows(text.token_ids(loaded.tokenizer, name, tokens), 4) for name in text.TEXTS})


def spoken(tokens: int, console: Console) -> Subject:
    """Whisper-base, whose decoder foretells the words of sentences that espeak-ng speaks; as many of them as have so many tokens."""
    network, tokenizer = whisper.load()
    samples: list[Sample] = []
    counted = 0
    texts = whisper.sentences(tokens)
    for at in range(0, len(texts), AT_ONCE):
        if counted >= tokens:
            break
        some = texts[at : at + AT_ONCE]
        heard = whisper.features([whisper.speak(each, whisper.VOICES[(at + i) % len(whisper.VOICES)]) for i, each in enumerate(some)])
        rows = [[*whisper.START, *tokenizer.encode(f" {each}", add_special_tokens=False).ids, whisper.END] for each in some]
        ids, labels = (torch.full((len(rows), LONGEST), filler) for filler in (whisper.END, UNCOUNTED))
        for i, row in enumerate(row[:LONGEST] for row in rows):
            ids[i, : len(row)] = torch.tensor(row)
            labels[i, len(whisper.START) - 1 : len(row) - 1] = torch.tensor(row[len(whisper.START) :])
        counted += int((labels != UNCOUNTED).sum())
        samples.append(Sample({"input_features": heard, "decoder_input_ids": ids}, labels))
    console.print(f"{counted} tokens in {len(samples)} calls")
    return Subject(network, {"spoken": samples})


SUBJECTS: dict[str, Callable[[int, Console], Subject]] = {"smollm2-off": off, "whisper-base": spoken}
"""By the name in the result file: what loads a model and texts of so many tokens; raises FileNotFoundError where a package is missing."""
