"""int4 weights on a line for each group, float activations: for models that were prepared with data (lowbit.prepare)."""

from lowbit_compiler.recipes.recipe import Recipe

RECIPE = Recipe("int4", weights="int4", activations="float", group_size=32, head="weight-only")
