"""int3 weights on a line for each group, float activations: where memory is short, for models that were prepared with data."""

from lowbit_compiler.recipes.recipe import Recipe

RECIPE = Recipe("int3", weights="int3", activations="float", group_size=32, head="weight-only")
