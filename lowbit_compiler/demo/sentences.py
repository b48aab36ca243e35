"""A task to fine-tune on that every machine has: which part of Python's library a paragraph of its documentation is about.

The paragraphs are those of docstrings, read from the sources and not imported; they differ a little from one Python version to the next.
"""

import ast
import functools
import os
import random
from dataclasses import dataclass
from pathlib import Path

TOPICS: dict[str, tuple[str, ...]] = {
    "archives": ("tarfile", "zipfile"),
    "asyncio": ("asyncio",),
    "datetime": ("datetime", "_pydatetime", "calendar"),
    "decimal": ("_pydecimal",),
    "email": ("email",),
    "http": ("http",),
    "ipaddress": ("ipaddress",),
    "logging": ("logging",),
    "statistics": ("statistics",),
    "turtle": ("turtle",),
    "unittest": ("unittest",),
    "xml": ("xml",),
}
"""By the names that people give them, the modules and packages."""
MOST = 250
"""Paragraphs of a topic, so that none is more likely than all others."""
HELD = 0.3
"""The share that is not learned from."""
SHORTEST = 40
"""Characters; what is shorter belongs everywhere."""


@dataclass(frozen=True)
class Labeled:
    """A paragraph, and the number of its topic."""

    text: str
    topic: int


@functools.cache
def learned_and_held() -> tuple[list[Labeled], list[Labeled]]:
    """Return paragraphs to learn from and others to be asked about, each shuffled, the same in every process."""
    every: list[Labeled] = []
    for topic, modules in enumerate(TOPICS.values()):
        texts = list(dict.fromkeys(text for module in modules for text in _paragraphs(module)))
        random.Random(topic).shuffle(texts)
        every += [Labeled(text, topic) for text in texts[:MOST]]
    random.Random(0).shuffle(every)
    cut = int(len(every) * HELD)
    return every[cut:], every[:cut]


def _paragraphs(module: str) -> list[str]:
    """Return the paragraphs of prose in the docstrings of a module or package; none where this Python has it elsewhere."""
    root = Path(os.__file__).parent
    files = sorted((root / module).rglob("*.py")) or [root / f"{module}.py"]
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for file in files if file.is_file() for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    parts = [part for node in nodes if isinstance(node, kinds) for part in (ast.get_docstring(node) or "").split("\n\n")]
    texts = [" ".join(part.split()) for part in parts]
    return [text for text in texts if len(text) >= SHORTEST and text[0].isupper() and ">>>" not in text]
