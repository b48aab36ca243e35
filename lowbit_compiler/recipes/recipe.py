"""Recipes: what is stored in how many bits, and what is done with outliers. Plain data."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Integral, Real
from typing import Any

from lowbit_compiler.errors import OptionError
from lowbit_compiler.runtime.formats import WORDS, Groups, Operand, operand
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


def pattern_error(pattern: str) -> str:
    """Return what is wrong with a name or, after "re:", a regular expression for names; "" where nothing is."""
    try:
        re.compile(pattern[3:] if pattern.startswith("re:") else "")
    except re.error as error:
        return str(error)
    return ""


def site_words(what: str, value: Any) -> tuple[tuple[str, str], ...]:
    """Return ``value``, a mapping or pairs, as pairs of strings; raises OptionError, about ``what``, for all else."""
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, Sequence) or isinstance(pairs, str):
        raise OptionError(f"{what} takes pairs of a pattern and a word for weights, got {value!r}")
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(isinstance(each, str) and each for each in pair):
            raise OptionError(f"{what} takes pairs of a pattern and a word for weights, got {pair!r}")
        if error := pattern_error(pair[0]):
            raise OptionError(f"{what} takes names and valid regular expressions after 're:', got {pair[0]!r}: {error}")
    patterns = [pattern for pattern, _ in pairs]
    if twice := {pattern for pattern in patterns if patterns.count(pattern) > 1}:
        raise OptionError(f"{what} takes each pattern once, got {min(twice)!r} again")
    return tuple((pattern, word) for pattern, word in pairs)


@dataclass(frozen=True)
class Recipe:
    """How a model is compiled to low precision.

    ``weights`` is the format that weights are stored in, ``activations`` the one that the product multiplies them with ("float" =
    weight-only); runtime/formats has the formats. ``treatment`` says what happens to activation outliers (docs/arithmetic.md), ``threshold``
    belongs to ``columns``, ``group_size`` to formats with groups. ``head`` says what becomes of the output head: left in float, int8
    weight-only, or treated as every other product. ``sites`` names other formats for the weights of some products: pairs of a pattern, as
    ``ignore`` takes it, and a word; the first that matches counts, also for the head. Where no kernel multiplies two formats, their product
    is emulated: quantized, dequantized and multiplied in float32.

    Raises OptionError for a name that is none, and for what does not fit together.
    """

    name: str
    weights: str = "int8"
    activations: str = "int8"
    treatment: str = "none"
    threshold: float = 6.0
    group_size: int = 64
    head: str = FLOAT
    sites: tuple[tuple[str, str], ...] = ()

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
        object.__setattr__(self, "sites", site_words(f"recipe {self.name!r}: sites", self.sites))
        for pattern, word in self.sites:
            replace(self, name=f"{self.name} at {pattern}", weights=word, sites=())  # raises for what does not fit

    def _check_together(self) -> None:
        x, w = self._activations, self._weights
        if x is not None and not x.format.activations:
            raise OptionError(
                f"recipe {self.name!r}: {self.activations} is a format of weights alone, got activations={self.activations!r}"
            )
        if x is not None and not (w.format.activations or w.scale.integers or self.plan.product):
            bare = replace(self.plan, treatment=TREATMENTS["none"].of(**asdict(self)))
            if bare.product:
                raise OptionError(
                    f"recipe {self.name!r}: {self.weights} weights with {self.activations} activations take treatment='none' alone, "
                    f"got {self.treatment!r}"
                )
            raise OptionError(f"recipe {self.name!r}: {self.weights} weights need activations='float', got {self.activations!r}")
        if x is None and self.plan.treatment.splits:
            raise OptionError(f"recipe {self.name!r}: float activations need no exact elements, got treatment={self.treatment!r}")

    def uses(self, field: str) -> bool:
        """Return whether ``threshold`` or ``group_size`` means something for these formats and this treatment."""
        sized = any(len(one.scale.sizes) > 1 for one in self._operands)
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
    def shares(self) -> bool:
        """Whether some product can have scales that several processes share."""
        plans = (self.plan, self.head_plan, *map(self.plan_with, self.words))
        return any(plan is not None and plan.over(()) is not None for plan in plans)

    @property
    def words(self) -> tuple[str, ...]:
        """The words of ``sites``, each once."""
        return tuple(dict.fromkeys(word for _, word in self.sites))

    def plan_with(self, weights: str) -> Plan:
        """How a product is computed whose weights have the format of another word."""
        return replace(self, weights=weights, sites=()).plan

    @property
    def _operands(self) -> list[Operand]:
        """The operands of every plan."""
        plans = (self.plan, *map(self.plan_with, self.words))
        return [one for plan in plans for one in (plan.x, plan.w) if one is not None]

    @property
    def least_sqnr(self) -> float:
        """What the outputs of a model have at least, in dB, against those in float: less with few bits, and less in both operands."""
        bits = min(one.format.grid.bits for one in self._operands)
        return min(LOW_BIT_SQNR, 6.0 * bits - 18.0 - (0.0 if self.plan.x is None else 3.0))

    @property
    def head_plan(self) -> Plan | None:
        """How the product of the output head is; None: in float."""
        return {FLOAT: None, "weight-only": ACCURATE, "same": self.plan}[self.head]
