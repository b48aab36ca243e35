"""Recipes: what is stored in how many bits, and what is done with outliers. Plain data."""

from dataclasses import dataclass
from typing import Literal

from lowbit_compiler.errors import OptionError

Treatment = Literal["none", "rotation", "columns", "rows"]
Head = Literal["float", "weight-only", "same"]

GROUP_SIZES = (32, 64, 128)
LOW_BIT_SQNR = 10.0  # dB; a wrong scale or a swapped operand is far below, every recipe here far above


@dataclass(frozen=True)
class Recipe:
    """How a model is compiled to low precision.

    ``weights`` is the stored format, ``activations`` what the product multiplies it with ("float" = weight-only).
    ``treatment`` says what happens to activation outliers (docs/arithmetic.md), ``threshold`` belongs to ``columns``,
    ``group_size`` to int4. ``head`` says what becomes of the output head: left in float, int8 weight-only, or treated
    as every other product.
    """

    name: str
    weights: Literal["int8", "int4"] = "int8"
    activations: Literal["int8", "float"] = "int8"
    treatment: Treatment = "none"
    threshold: float = 6.0
    group_size: int = 64
    head: Head = "float"

    def __post_init__(self) -> None:
        accepted = {
            "weights": ("int8", "int4"),
            "activations": ("int8", "float"),
            "treatment": ("none", "rotation", "columns", "rows"),
            "head": ("float", "weight-only", "same"),
            "group_size": GROUP_SIZES,
        }
        for field, values in accepted.items():
            if getattr(self, field) not in values:
                raise OptionError(f"recipe {self.name!r}: {field} must be one of {values}, got {getattr(self, field)!r}")
        if self.weights == "int4" and self.activations != "float":
            raise OptionError(f"recipe {self.name!r}: int4 weights need activations='float', got {self.activations!r}")
        if self.activations == "float" and self.treatment != "none":
            raise OptionError(f"recipe {self.name!r}: a weight-only recipe takes treatment='none', got {self.treatment!r}")
        if not self.threshold > 0:
            raise OptionError(f"recipe {self.name!r}: threshold must be positive, got {self.threshold!r}")


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("int8", treatment="rotation", head="same"),
        Recipe("llm-int8", treatment="columns"),
        Recipe("int8-vector"),
        Recipe("int8-weight-only", activations="float", head="same"),
        Recipe("int4-weight-only", weights="int4", activations="float", head="weight-only"),
    )
}


def find_recipe(recipe: str | Recipe) -> Recipe:
    """Return ``recipe`` itself or the one of that name; raises OptionError for an unknown name."""
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise OptionError(f"unknown recipe {recipe!r}; accepted: {', '.join(RECIPES)} or a Recipe")
    return RECIPES[recipe]
