"""What a recipe is: what is stored in how many bits, and what is done with outliers. Plain data."""

import sys
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

from lowbit_compiler.errors import OptionError

Weights = Literal["int8", "int4"]
Activations = Literal["int8", "float"]
Treatment = Literal["none", "rotation", "columns", "rows"]
Head = Literal["float", "weight-only", "same"]
_WORDS = {"weights": get_args(Weights), "activations": get_args(Activations), "treatment": get_args(Treatment), "head": get_args(Head)}

GROUP_SIZES = (32, 64, 128)
LOW_BIT_SQNR = 10.0  # dB; a wrong scale or a swapped operand is far below, every recipe here far above


def finite_positive(what: str, value: Any) -> float:
    """Return ``value`` as a float; raises OptionError, about ``what``, where it is no finite number above 0."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0 < value <= sys.float_info.max:
        raise OptionError(f"{what} takes a finite number above 0, got {value!r}")
    return float(value)


def group_size(what: str, value: Any) -> int:
    """Return ``value`` as an int; raises OptionError, about ``what``, where it is no size of an int4 group."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value not in GROUP_SIZES:
        raise OptionError(f"{what} takes one of {GROUP_SIZES}, got {value!r}")
    return int(value)


@dataclass(frozen=True)
class Recipe:
    """How a model is compiled to low precision.

    ``weights`` is the stored format, ``activations`` what the product multiplies it with ("float" = weight-only).
    ``treatment`` says what happens to activation outliers (docs/arithmetic.md), ``threshold`` belongs to ``columns``,
    ``group_size`` to int4. ``head`` says what becomes of the output head: left in float, int8 weight-only, or treated
    as every other product.
    """

    name: str
    weights: Weights = "int8"
    activations: Activations = "int8"
    treatment: Treatment = "none"
    threshold: float = 6.0
    group_size: int = 64
    head: Head = "float"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise OptionError(f"a recipe's name is a string, got {self.name!r}")
        for field, accepted in _WORDS.items():
            value = getattr(self, field)
            if not isinstance(value, str) or value not in accepted:
                raise OptionError(f"recipe {self.name!r}: {field} takes one of {accepted}, got {value!r}")
        for field, check in {"threshold": finite_positive, "group_size": group_size}.items():
            object.__setattr__(self, field, check(f"recipe {self.name!r}: {field}", getattr(self, field)))
        if self.weights == "int4" and self.activations != "float":
            raise OptionError(f"recipe {self.name!r}: int4 weights need activations='float', got {self.activations!r}")
        if self.activations == "float" and self.treatment != "none":
            raise OptionError(f"recipe {self.name!r}: a weight-only recipe takes treatment='none', got {self.treatment!r}")
