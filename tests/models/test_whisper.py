"""Whisper-base hears what espeak-ng says, in float and with 8- and 4-bit weights."""

from typing import Any

import pytest
import torch

from helpers import whisper
from lowbit_compiler.recipes import Recipe

pytestmark = pytest.mark.model
MOST = 0.35
"""Word error rate: names of Python's language reference are hard to hear; a model of wrong weights says something else altogether."""


def test_word_error_rate() -> None:
    assert whisper.word_error_rate("A name, or two.", "a name or two") == 0.0
    assert whisper.word_error_rate("one two three four", "one three for") == 0.5
    assert whisper.word_error_rate("one", "one two three") == 2.0


def test_sentences_are_heard() -> None:
    try:
        model, tokenizer = whisper.load()
        said = ["The quick brown fox jumps over the lazy dog.", "She sells sea shells by the sea shore, and he buys them in the morning."]
        heard = whisper.features([whisper.speak(sentence, voice) for sentence, voice in zip(said, whisper.VOICES, strict=False)])
    except FileNotFoundError as error:
        pytest.skip(str(error))

    def rate(*parts: Any) -> float:
        tokens = whisper.transcribe(*parts, heard, 32)
        return sum(whisper.word_error_rate(a, tokenizer.decode(b)) for a, b in zip(said, tokens, strict=True)) / len(said)

    parts = model.get_encoder(), model
    rates = {"float": rate(*parts)}
    for word in ("int8", "int4"):
        torch._dynamo.reset()
        recipe = Recipe(word, weights=word, activations="float", group_size=32)
        options = {"recipe": recipe, "plan": "always", "remainder": "eager"}
        rates[word] = rate(*(torch.compile(part, backend="lowbit", options=options) for part in parts))
    assert max(rates.values()) <= MOST, rates
