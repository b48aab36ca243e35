"""Number formats, one file each, and the list of them."""

from importlib import import_module

from lowbit_compiler.runtime.formats.format import Format
from lowbit_compiler.runtime.formats.operand import Operand
from lowbit_compiler.runtime.formats.s8 import S8
from lowbit_compiler.runtime.formats.scales import Groups, Row, Scale
from lowbit_compiler.runtime.formats.shared import SharedRow

MODULES = (
    "s8",
    "d8",
    "s4",
    "affine",
    "zeros",
    "ternary",
    "codebook",
    "exmy",
    "fp4",
)
FORMATS: tuple[type[Format], ...] = tuple(format for module in MODULES for format in import_module(f"{__name__}.{module}").FORMATS)
KINDS = tuple((format, scale) for format in FORMATS for scale in format.scales)
"""What there are ops for: each format, with each kind of scale that it may have."""
SPELLED = {f"{format.name}{scale.suffix}": (format, scale) for format, scale in KINDS}
"""By ``Operand.spelling``."""
SHARED: tuple[tuple[type[Format], type[Scale]], ...] = ((S8, SharedRow),)
"""Those that have scales over several processes, which no recipe spells."""
PACKED = tuple(kind for kind in KINDS if kind[0].panels is not None)
"""Those with a layout for kernels."""
IN_PLANES = tuple(kind for kind in PACKED if kind[0].panels is not None and kind[0].panels.planes)
"""Those of them whose codes lie in planes of bits: few rows in fixed point meet them."""
QUANTIZED = tuple(kind for kind in PACKED if kind[0].panels is not None and kind[0].panels.quantizers)
"""Those of them that kernels quantize to."""
SWITCHABLE = tuple(kind for kind in PACKED if kind[0].widths)
"""Those of them whose packed weights can be read in fewer bits."""
WORDS = tuple(word for format in FORMATS for word in format.words)
"""How recipes spell them."""


def operand(word: str, group: int) -> Operand | None:
    """Return the operand that a recipe calls ``word``, in groups of ``group`` where it has groups; None where no format knows the word."""
    for format in FORMATS:
        if (found := format.spelled(word, group)) is not None:
            return Operand(*found)
    return None


__all__ = [
    "FORMATS",
    "IN_PLANES",
    "KINDS",
    "PACKED",
    "QUANTIZED",
    "SHARED",
    "SPELLED",
    "SWITCHABLE",
    "WORDS",
    "Format",
    "Groups",
    "Operand",
    "Row",
    "Scale",
    "SharedRow",
    "operand",
]
