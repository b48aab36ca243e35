"""The recipes there are, in the order in which they are shown; each has a file that says when to take it."""

import os
from importlib import import_module
from pathlib import Path

from lowbit_compiler.errors import OptionError
from lowbit_compiler.recipe_names import DEFAULT, FILES
from lowbit_compiler.recipes import recipe_file
from lowbit_compiler.recipes.recipe import LOW_BIT_SQNR, Recipe, finite_positive, group_size, pattern_error

__all__ = [
    "DEFAULT",
    "LOW_BIT_SQNR",
    "RECIPES",
    "SWITCHABLE",
    "WIDTHS",
    "WIDTHS_OF",
    "WITH_KERNELS",
    "Recipe",
    "find_recipe",
    "finite_positive",
    "group_size",
    "pattern_error",
    "require_shared",
]

WIDTHS = ("int3", "int4", "int5", "int6", "int8")
"""The words of weights among which layers get a number of bits for a budget."""
WIDTHS_OF = "int4-weight-only"
"""The recipe that says everything else then."""

_FOUND: tuple[Recipe, ...] = tuple(import_module(f"{__name__}.{file}").RECIPE for file in FILES)
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _FOUND}
WITH_KERNELS = tuple(name for name, recipe in RECIPES.items() if recipe.plan.product is not None)
"""Those that are not emulated."""
SWITCHABLE = tuple(name for name, recipe in RECIPES.items() if recipe.plan.w.format.widths)
"""Those whose weights can be read in fewer bits (lowbit.switch_bits)."""


def require_shared(recipe: Recipe) -> None:
    """Raise OptionError where no product of ``recipe`` can have scales that several processes share."""
    if not recipe.shares:
        users = ", ".join(each.name for each in RECIPES.values() if each.shares)
        raise OptionError(
            f"option 'tp_scales': 'shared' needs a recipe with int8 codes of whole rows on both sides ({users}), got {recipe.name!r}"
        )


def find_recipe(recipe: str | os.PathLike[str] | Recipe) -> Recipe:
    """Return ``recipe`` itself, the one of that name, or the one in that file; raises OptionError for anything else."""
    if isinstance(recipe, Recipe):
        return recipe
    if recipe_file.is_file_name(recipe):
        return recipe_file.read(Path(recipe))
    if not isinstance(recipe, str):
        raise OptionError(f"recipe takes the name of a recipe, FILE{recipe_file.SUFFIX} or a Recipe, got {recipe!r}")
    if recipe not in RECIPES:
        raise OptionError(f"unknown recipe {recipe!r}; accepted: {', '.join(RECIPES)}, FILE{recipe_file.SUFFIX} or a Recipe")
    return RECIPES[recipe]
