"""Number formats, one file each, and the list of them."""

from importlib import import_module

from lowbit_compiler.runtime.formats.format import Format
from lowbit_compiler.runtime.formats.operand import Operand
from lowbit_compiler.runtime.formats.scales import Groups, Row, Scale

MODULES = (
    "s8",
    "s4",
    "u4",
    "exmy",
    "fp4",
)
FORMATS: tuple[type[Format], ...] = tuple(import_module(f"{__name__}.{module}").FORMAT for module in MODULES)
WORDS = tuple(word for format in FORMATS for word in format.words)
"""How recipes spell them."""


def operand(word: str, group: int) -> Operand | None:
    """Return the operand that a recipe calls ``word``, in groups of ``group`` where it has groups; None where no format knows the word."""
    for format in FORMATS:
        if (found := format.spelled(word, group)) is not None:
            return Operand(*found)
    return None


__all__ = ["FORMATS", "WORDS", "Format", "Groups", "Operand", "Row", "Scale", "operand"]
