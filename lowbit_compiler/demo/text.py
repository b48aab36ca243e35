"""Two real texts that every machine has: English prose and Python source, both from the standard library.

They differ a little from one Python version to the next, so compare perplexities only within one run.
"""

import argparse
import inspect
from collections.abc import Callable
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor

TOKENS = 6144


def english() -> str:
    """The paragraphs of prose of Python's language reference, without its code blocks, grammars and tables."""
    paragraphs = [p for topic in topics.values() for p in topic.split("\n\n")]
    prose = [" ".join(p.split()) for p in paragraphs if p[:1].isalpha() and p.rstrip().endswith(".") and len(p) > 100]
    return "\n\n".join(prose)


def python() -> str:
    """The source of argparse."""
    return inspect.getsource(argparse)


TEXTS: dict[str, Callable[[], str]] = {"english": english, "python": python}


def token_ids(tokenizer: Any, name: str, count: int = TOKENS) -> Tensor:
    """The first `count` tokens of the text `name` (one of TEXTS), int64 [1, count]."""
    text = TEXTS[name]()
    ids = tokenizer(text[: 10 * count], add_special_tokens=False, verbose=False)["input_ids"][:count]
    if len(ids) < count:
        raise ValueError(f"text {name!r} has only {len(ids)} tokens, {count} were asked for")
    return torch.tensor([ids], dtype=torch.int64)
