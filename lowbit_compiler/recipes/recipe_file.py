"""Recipes in files: TOML that a person can read and change, with the fields of :class:`Recipe` as keys and its sites as a table."""

import json
import os
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from lowbit_compiler.errors import OptionError
from lowbit_compiler.recipes.recipe import Recipe

SUFFIX = ".toml"
SITES = "sites"
FIELDS = {field.name: field.default for field in fields(Recipe)}


def is_file_name(name: object) -> bool:
    """Return whether ``name`` is the name of a recipe's file rather than of a recipe."""
    return isinstance(name, os.PathLike) or (isinstance(name, str) and name.endswith(SUFFIX))


def read(path: Path) -> Recipe:
    """Return the recipe in ``path``, named after the file where it does not say; raises OptionError, with file, key, and what is accepted."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"recipe file {str(path)!r} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # no UTF-8, no TOML, a name with a null byte
        raise OptionError(f"recipe file {str(path)!r} is no TOML: {error}") from error
    if unknown := [key for key in found if key not in FIELDS]:
        raise OptionError(f"recipe file {str(path)!r}: unknown key {unknown[0]!r}; accepted: {', '.join(FIELDS)}")
    if not isinstance(sites := found.get(SITES, {}), dict):
        raise OptionError(f"recipe file {str(path)!r}: {SITES} takes a table of patterns and words for weights, got {sites!r}")
    try:
        return Recipe(**{"name": path.stem, **found})
    except OptionError as error:
        raise OptionError(f"recipe file {str(path)!r}: {error}") from error


def text(recipe: Recipe) -> str:
    """Return ``recipe`` as the text of a file that :func:`read` takes for the same: the fields that are not the default's, then the sites."""
    values = {name: getattr(recipe, name) for name in FIELDS}
    lines = [f"{name} = {_literal(value)}" for name, value in values.items() if name != SITES and value != FIELDS[name]]
    if recipe.sites:
        lines += ["", f"[{SITES}]", *(f"{_literal(pattern)} = {_literal(word)}" for pattern, word in recipe.sites)]
    return "\n".join(lines) + "\n"


def _literal(value: Any) -> str:
    """Return a string or number in TOML: strings of JSON are its basic strings, but for DEL, which has to be escaped there too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") if isinstance(value, str) else repr(value)
