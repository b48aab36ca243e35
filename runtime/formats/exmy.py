"""Small floats of any exponent and mantissa, with a float32 scale for each group along K (arXiv 2501.02423, section 3)."""

import re
from dataclasses import dataclass
from typing import Any

from lowbit_compiler.runtime.formats.format import Format
from lowbit_compiler.runtime.formats.grid import Floats, Grid
from lowbit_compiler.runtime.formats.scales import Groups, Scale

MOST_E, MOST_BITS = 8, 16


@dataclass(frozen=True)
class ExMy(Format):
    """Sign, ``e`` exponent and ``m`` mantissa bits, with subnormals and without codes for infinity and NaN.

    The scale takes the largest magnitude of a group to the largest number; it is float32, so the bias of the exponent is no matter, and
    the largest binade is [1, 2) here. Raises ValueError for more than 8 exponent bits or 16 bits in all, and for none.
    """

    e: int
    m: int

    name = "exmy"
    schema = "int e, int m"
    scales = (Groups,)
    words = ("e4m3", "e3m4", "e5m2")  # and any other

    def __post_init__(self) -> None:
        if not (0 <= self.e <= MOST_E and 0 <= self.m and 2 <= 1 + self.e + self.m <= MOST_BITS):
            raise ValueError(f"expected e from 0 to {MOST_E} and 2 to {MOST_BITS} bits with sign, e and m, got e = {self.e}, m = {self.m}")

    def __str__(self) -> str:
        return f"e{self.e}m{self.m}"

    @property
    def grid(self) -> Grid:
        """Numbers of at most 2 - 2^-m."""
        return Floats(self.e, self.m)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """Exponent and mantissa bits."""
        return self.e, self.m

    @classmethod
    def spelled(cls, word: str, group: int) -> tuple[Format, Scale] | None:
        """Return e4m3, e3m4, ... in groups of ``group``."""
        found = re.fullmatch(r"e([0-9])m([0-9]{1,2})", word)
        try:
            return (cls(int(found[1]), int(found[2])), Groups(group)) if found else None
        except ValueError:
            return None


FORMATS = (ExMy,)
