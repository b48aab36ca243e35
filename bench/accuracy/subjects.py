"""The models that bench/accuracy/int4.py measures, each with what it is run on and where the next token is told from the logits."""

import functools
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import calibration
import torch
from int4_docs import FURTHER
from rich.console import Console
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

from helpers import gemma, smollm2_off, whisper
from lowbit_compiler.demo import text

WINDOW = 512
CALIBRATION = 16
"""Windows, or sentences."""
AT_ONCE, LONGEST = 4, 96
"""Sentences in a call, and the tokens that each is filled up to: one shape, one compilation."""
UNCOUNTED = -100
"""A label that counts for nothing, as in torch's cross_entropy."""
HEARD = 12
"""Sentences that are written down word by word."""


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
    further: Callable[[Any, dict[str, Any]], dict[str, float]] = lambda network, options: {}
    """What else a network compiled with these options is measured by."""

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
    texts = {name: windows(text.token_ids(loaded.tokenizer, name, tokens), 4) for name in text.TEXTS}
    return Subject(loaded.model, texts, _both_kinds(lambda written: loaded.tokenizer(written, verbose=False)["input_ids"]))


def gemma_270m(tokens: int, console: Console) -> Subject:
    """Gemma-3-270M (tests/helpers/gemma.py); every window begins with BOS."""
    network, tokenizer = gemma.load()
    ids = {name: torch.tensor([tokenizer.encode(written()[: 10 * tokens]).ids[:tokens]]) for name, written in text.TEXTS.items()}
    texts = {name: windows(some, 2, gemma.BOS) for name, some in ids.items()}
    return Subject(network, texts, _both_kinds(lambda written: tokenizer.encode(written).ids, gemma.BOS))


def _both_kinds(encode: Callable[[str], list[int]], first: int | None = None) -> list[Tensor]:
    """Return windows [1, 512] for preparation, English and Python by turns, spread over the texts."""
    size, each = WINDOW - (first is not None), CALIBRATION // 2
    found = []
    for written in (calibration.english(), calibration.python()):
        ids = encode(written)
        starts = [at * (len(ids) - size) // (each - 1) for at in range(each)]
        found.append([torch.tensor([([] if first is None else [first]) + ids[at : at + size]]) for at in starts])
    return list(itertools.chain(*zip(*found, strict=True)))


def spoken(tokens: int, console: Console) -> Subject:
    """Whisper-base, whose decoder foretells the words of sentences that espeak-ng speaks; as many of them as have so many tokens."""
    network, tokenizer = whisper.load()
    said = whisper.sentences(tokens)
    samples: list[Sample] = []
    counted = used = 0
    while counted < tokens and used < len(said):
        samples.append(_spoken(tokenizer, said[used : used + AT_ONCE], used))
        counted += int((samples[-1].labels != UNCOUNTED).sum())
        used += AT_ONCE
    console.print(f"{counted} tokens in {len(samples)} calls")
    prose = [re.sub(r"[^A-Za-z0-9 ,.']", "", part) for part in calibration.english().split("\n\n")]
    unseen = [part for part in prose if 150 < len(part) < 330][:CALIBRATION]
    others = [_spoken(tokenizer, unseen[at : at + AT_ONCE], at).inputs for at in range(0, len(unseen), AT_ONCE)]

    @functools.cache
    def in_float() -> float:
        return _words_wrong((network.get_encoder(), network), tokenizer, said[:HEARD])

    def wrong(low: Any, options: dict[str, Any]) -> dict[str, float]:
        parts = [torch.compile(part, backend="lowbit", options=options) for part in (low.get_encoder(), low)]
        return dict(zip(FURTHER, (_words_wrong(parts, tokenizer, said[:HEARD]), in_float()), strict=True))

    return Subject(network, {"spoken": samples}, others, wrong)


def _spoken(tokenizer: Any, some: list[str], first: int) -> Sample:
    """Return sentences as sound, in one voice after the other, and as tokens."""
    heard = _heard(some, first)
    rows = [[*whisper.START, *tokenizer.encode(f" {each}", add_special_tokens=False).ids, whisper.END] for each in some]
    ids, labels = (torch.full((len(rows), LONGEST), filler) for filler in (whisper.END, UNCOUNTED))
    for i, row in enumerate(row[:LONGEST] for row in rows):
        ids[i, : len(row)] = torch.tensor(row)
        labels[i, len(whisper.START) - 1 : len(row) - 1] = torch.tensor(row[len(whisper.START) :])
    return Sample({"input_features": heard, "decoder_input_ids": ids}, labels)


def _heard(some: list[str], first: int) -> Tensor:
    return whisper.features([whisper.speak(each, whisper.VOICES[(first + i) % len(whisper.VOICES)]) for i, each in enumerate(some)])


def _words_wrong(parts: Sequence[Any], tokenizer: Any, said: list[str]) -> float:
    """Return the errors of encoder and network over the words of ``said``."""
    wrong = words = 0.0
    for at in range(0, len(said), AT_ONCE):
        some = said[at : at + AT_ONCE]
        for each, tokens in zip(some, whisper.transcribe(*parts, _heard(some, at), LONGEST), strict=True):
            wrong += whisper.word_error_rate(each, tokenizer.decode(tokens)) * len(each.split())
            words += len(each.split())
    return wrong / words


SUBJECTS: dict[str, Callable[[int, Console], Subject]] = {"smollm2-off": off, "gemma-3-270m": gemma_270m, "whisper-base": spoken}
"""By the name in the result file: what loads a model and texts of so many tokens; raises FileNotFoundError where a package is missing."""
