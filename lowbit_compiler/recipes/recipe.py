"""Recipes: what is stored in how many bits, and what is done with outliers. Plain data."""

import sys
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from typing import Any

from lowbit_compiler.errors import OptionError
from lowbit_compiler.runtime.formats import WORDS, Groups, Operand, operand
from lowbit_compiler.runtime.formats.lines import Lines
from lowbit_compiler.runtime.products import ACCURATE, Plan
from lowbit_compiler.runtime.treatments import TREATMENTS

FLOAT = "float"
HEADS = (FLOAT, "weight-only", "same")
GROUP_SIZES = Groups.sizes
LOW_BIT_SQNR = 10.0  # dB; a wrong scale or a swapped operand is far below, every recipe here far above


def finite_positive(what: str, value: Any) -> float:
    """Return ``value`` as a float; raises OptionError, about ``what``, where it is no finite number above 0."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0 < value <= sys.float_info.max:
        raise OptionError(f"{what} takes a finite number above 0, got {value!r}")
    return float(value)


def group_size(what: str, value: Any) -> int:
    """Return ``value`` as an int; raises OptionError, about ``what``, where it is no size of a group."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value not in GROUP_SIZES:
        raise OptionError(f"{what} takes one of {GROUP_SIZES}, got {value!r}")
    return int(value)


@dataclass(frozen=True)
class Recipe:
    """How a model is compiled to low precision.

    ``weights`` is the format that weights are stored in, ``activations`` the one that the product multiplies them with ("float" =
    weight-only); runtime/formats has the formats. ``treatment`` says what happens to activation outliers (docs/arithmetic.md), ``threshold``
    belongs to ``columns``, ``group_size`` to formats with groups. ``head`` says what becomes of the output head: left in float, int8
    weight-only, or treated as every other product. Where no kernel multiplies two formats, their product is emulated: quantized,
    dequantized and multiplied in float32.

    Raises OptionError for a name that is none, and for what does not fit together.
    """

    name: str
    weights: str = "int8"
    activations: str = "int8"
    treatment: str = "none"
    threshold: float = 6.0
    group_size: int = 64
    head: str = FLOAT

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise OptionError(f"a recipe's name is a string, got {self.name!r}")
        for field, check in {"threshold": finite_positive, "group_size": group_size}.items():
            object.__setattr__(self, field, check(f"recipe {self.name!r}: {field}", getattr(self, field)))
        formats = dict.fromkeys(("weights", "activations"), WORDS)
        for field, words in {**formats, "treatment": tuple(TREATMENTS), "head": HEADS}.items():
            words = (FLOAT, *words) if field == "activations" else words
            value = getattr(self, field)
            if not isinstance(value, str) or not (value in words or (field in formats and operand(value, self.group_size))):
                raise OptionError(f"recipe {self.name!r}: {field} takes one of {words}, got {value!r}")
        self._check_together()

    def _check_together(self) -> None:
        x, w = self._activations, self._weights
        if x is not None and not x.format.activations:
            raise OptionError(
                f"recipe {self.name!r}: {self.activations} is a format of weights alone, got activations={self.activations!r}"
            )
        if x is not None and not (w.format.activations or w.scale.integers or self.plan.product):
            raise OptionError(f"recipe {self.name!r}: {self.weights} weights need activations='float', got {self.activations!r}")
        if x is None and self.plan.treatment.splits:
            raise OptionError(f"recipe {self.name!r}: float activations need no exact elements, got treatment={self.treatment!r}")

    def uses(self, field: str) -> bool:
        """Return whether ``threshold`` or ``group_size`` means something for these formats and this treatment."""
        sized = any(isinstance(one.scale, Groups | Lines) for one in (self.plan.x, self.plan.w) if one is not None)
        return {"threshold": hasattr(self.plan.treatment, "threshold"), "group_size": sized}[field]

    @property
    def _activations(self) -> Operand | None:
        return None if self.activations == FLOAT else operand(self.activations, self.group_size)

    @property
    def _weights(self) -> Operand:
        found = operand(self.weights, self.group_size)
        assert found is not None
        return found

    @property
    def plan(self) -> Plan:
        """How a product is computed."""
        return Plan(self._activations, self._weights, TREATMENTS[self.treatment].of(**asdict(self)))

    @property
    def least_sqnr(self) -> float:
        """What the outputs of a model have at least, in dB, against those in float: less with few bits, and less in both operands."""
        bits = [operand.format.grid.bits for operand in (self.plan.x, self.plan.w) if operand is not None]
        return min(LOW_BIT_SQNR, 6.0 * min(bits) - 18.0 - (3.0 if len(bits) == 2 else 0.0))

    @property
    def head_plan(self) -> Plan | None:
        """How the product of the output head is; None: in float."""
        return {FLOAT: None, "weight-only": ACCURATE, "same": self.plan}[self.head]
