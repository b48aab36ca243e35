"""Text to prepare models with: English and Python in equal parts, of the standard library, and none of it in what is judged (demo/text.py)."""

import importlib
import inspect
from itertools import chain

PROSE = [
    "statistics",
    "doctest",
    "decimal",
    "typing",
    "abc",
    "random",
    "difflib",
    "pickle",
    "tarfile",
    "email.message",
    "heapq",
    "threading",
    "fractions",
    "calendar",
    "unittest.mock",
]
SOURCE = [
    "dataclasses",
    "json.decoder",
    "collections",
    "csv",
    "textwrap",
    "ast",
    "configparser",
    "zipfile",
    "heapq",
    "logging",
    "queue",
    "shutil",
    "bisect",
    "string",
    "copy",
]
LONGEST = 6000
"""Characters of one module: many kinds of text are worth more than much of one."""


def english() -> str:
    """Paragraphs of prose in docstrings, module by module."""
    return "\n\n".join(_prose(name)[:LONGEST] for name in PROSE)


def python() -> str:
    """The middles of modules, where there is code."""
    return "\n\n".join(source[len(source) // 3 :][:LONGEST] for source in map(_source, SOURCE))


def _source(name: str) -> str:
    return inspect.getsource(importlib.import_module(name))


def _prose(name: str) -> str:
    module = importlib.import_module(name)
    objects = [module, *(vars(module)[each] for each in sorted(vars(module)))]
    own = [each for each in objects if each is module or getattr(each, "__module__", None) == name]
    inside = chain.from_iterable([each, *vars(each).values()] if inspect.isclass(each) else [each] for each in own)
    texts = dict.fromkeys(text for each in inside if isinstance(text := getattr(each, "__doc__", None), str))
    paragraphs = (" ".join(part.split()) for text in texts for part in text.split("\n\n") if ">>>" not in part)
    return "\n\n".join(part for part in paragraphs if len(part) > 100 and part[0].isalpha() and part.endswith("."))
