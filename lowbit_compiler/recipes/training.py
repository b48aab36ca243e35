"""Recipes that train: what the three products of every linear are, and the recipe that evaluates the model in between."""

from dataclasses import dataclass
from typing import Any

from lowbit_compiler.recipes import int8, mxfp4, nvfp4
from lowbit_compiler.recipes.recipe import Recipe
from lowbit_compiler.runtime.training.plan import TrainingPlan
from lowbit_compiler.runtime.training.plans import FLOAT, PLANS, plan_of


@dataclass(frozen=True)
class TrainingRecipe:
    """A plan by its name, and how graphs without gradients are compiled: ``evaluation``, or None for the forward product of the plan itself."""

    name: str
    plan: TrainingPlan
    evaluation: Recipe | None = None


EVALUATION: dict[str, Recipe] = {
    "int8-training": int8.RECIPE,
    "mxfp4-training": mxfp4.RECIPE,
    "nvfp4-training": nvfp4.RECIPE,
}
"""Where a recipe for inference has the forward product's formats, and its weights packed once; elsewhere every call quantizes them."""
NAMES = (*PLANS, "float-training(E, M)", "sbits-training(S)")
"""How they are spelled."""


def find_training(name: Any) -> TrainingRecipe | None:
    """Return the training recipe ``name``; None where that is none."""
    plan = plan_of(name) if isinstance(name, str) else None
    if plan is None:
        return None
    if found := FLOAT.fullmatch(name):
        word = f"e{found[1]}m{found[2]}"
        return TrainingRecipe(name, plan, Recipe(word, weights=word, activations=word))
    return TrainingRecipe(name, plan, EVALUATION.get(name))
