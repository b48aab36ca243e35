"""The plans that there are, by the names of the recipes that have them (lowbit_compiler/training/recipes.py says when to take which)."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from lowbit_compiler.runtime.formats import Groups, Operand, Scale
from lowbit_compiler.runtime.formats.exmy import ExMy
from lowbit_compiler.runtime.formats.format import Format
from lowbit_compiler.runtime.formats.fp4 import FP4
from lowbit_compiler.runtime.formats.grid import Integers
from lowbit_compiler.runtime.formats.s4 import S4
from lowbit_compiler.runtime.formats.scales import Nested
from lowbit_compiler.runtime.products import Plan
from lowbit_compiler.runtime.rounding import STOCHASTIC
from lowbit_compiler.runtime.training.backward import Float, Folded, Requantized
from lowbit_compiler.runtime.training.integers import in_integers
from lowbit_compiler.runtime.training.plan import TrainingPlan
from lowbit_compiler.runtime.training.rotation import InBlocks, Signed
from lowbit_compiler.runtime.training.sampling import SampledInput, SampledWeight, Split
from lowbit_compiler.runtime.training.scales import Covering, Gaussian, Latent, Mean, NestedCovering, Whole, WholePower
from lowbit_compiler.runtime.training.significands import One, Rounded
from lowbit_compiler.runtime.treatments import Treatment


@dataclass(frozen=True)
class Whole16(Format):
    """16-bit integers, of which only training makes use."""

    name = "s16"
    scales = (WholePower,)
    words = ()
    grid = Integers(-32767, 32767)


@dataclass(frozen=True)
class Ternary(Format):
    """-1, 0 and 1: a weight above half the scale is 1."""

    name = "ternary"
    scales = (Latent,)
    words = ()
    grid = Integers(-1, 1)


def _random(format: Format, scale: Scale) -> Operand:
    return Operand(format, scale, STOCHASTIC)


def _folded(forward: Plan, gradient: Operand) -> TrainingPlan:
    return TrainingPlan(forward, Folded(gradient), Folded(gradient))


def _requantized(forward: Plan, both: Operand, *treatment: Treatment) -> TrainingPlan:
    product = Requantized(both, both, *treatment)
    return TrainingPlan(forward, product, product)


def _same(operand: Operand, *treatment: Treatment) -> Plan:
    """Both operands of the forward product in one format."""
    return Plan(operand, operand, *treatment)


def float_training(e: int, m: int) -> TrainingPlan:
    """Small floats in groups of 64 along each product's sum (arXiv 2501.02423); raises ValueError for a format that is none."""
    return _requantized(_same(Operand(ExMy(e, m), Groups(64))), _random(ExMy(e, m), Groups(64)))


def sbits_training(s: int) -> TrainingPlan:
    """Operands of ``s`` significant bits (arXiv 2104.15076), rounded at random in the backward pass; raises ValueError for a number that is none."""
    return _requantized(_same(Operand(Rounded(s), One())), _random(Rounded(s), One()))


PLANS: dict[str, TrainingPlan] = {
    "int8-training": in_integers(8),
    "int4-training": in_integers(4, rotated=True),
    "mxfp4-training": _requantized(_same(Operand(FP4(), Gaussian()), Signed(32)), _random(FP4(), Covering()), Signed(32)),
    "nvfp4-training": _requantized(_same(Operand(FP4(), Nested())), _random(FP4(), NestedCovering()), Signed(16)),
    "int16-training": _folded(_same(Operand(Whole16(), WholePower())), _random(Whole16(), WholePower())),
    "int4-training-paper": TrainingPlan(
        _same(Operand(S4(), Mean(2 * math.sqrt(7))), InBlocks(32)),
        SampledInput(_random(Split(), Whole())),
        SampledWeight(_random(Split(), Whole())),
    ),
    "ternary-training": TrainingPlan(Plan(None, Operand(Ternary(), Latent(1.0))), Float(), Float()),
}
LEARNING = tuple(name for name, plan in PLANS.items() if plan.learns)
"""Those whose step sizes may be learned (lowbit.prepare_training)."""
FLOAT = re.compile(r"float-training\((\d+), ?(\d+)\)")
FAMILIES: dict[re.Pattern[str], Callable[..., TrainingPlan]] = {
    FLOAT: float_training,
    re.compile(r"sbits-training\((\d+)\)"): sbits_training,
}
"""Plans with numbers in their names."""


def plan_of(name: str) -> TrainingPlan | None:
    """Return the plan called ``name``, ``float-training(e, m)`` and ``sbits-training(s)`` too; None where there is none."""
    for pattern, make in FAMILIES.items():
        if found := pattern.fullmatch(name):
            try:
                return make(*map(int, found.groups()))
            except ValueError:
                return None
    return PLANS.get(name)
