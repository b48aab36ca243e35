"""The recipes there are, in the order in which they are shown; each has a file that says when to take it."""

from importlib import import_module

from lowbit_compiler.errors import OptionError
from lowbit_compiler.recipe_names import DEFAULT, FILES
from lowbit_compiler.recipes.recipe import LOW_BIT_SQNR, Recipe, finite_positive, group_size

__all__ = ["DEFAULT", "LOW_BIT_SQNR", "RECIPES", "WITH_KERNELS", "Recipe", "find_recipe", "finite_positive", "group_size"]

_FOUND: tuple[Recipe, ...] = tuple(import_module(f"{__name__}.{file}").RECIPE for file in FILES)
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _FOUND}
WITH_KERNELS = tuple(name for name, recipe in RECIPES.items() if recipe.plan.product is not None)
"""Those that are not emulated."""


def find_recipe(recipe: str | Recipe) -> Recipe:
    """Return ``recipe`` itself or the one of that name; raises OptionError for anything else."""
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str):
        raise OptionError(f"recipe takes the name of a recipe or a Recipe, got {recipe!r}")
    if recipe not in RECIPES:
        raise OptionError(f"unknown recipe {recipe!r}; accepted: {', '.join(RECIPES)} or a Recipe")
    return RECIPES[recipe]
