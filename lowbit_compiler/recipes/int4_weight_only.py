"""int4 weights with a scale for each group, float activations: half the memory of int8, for a larger error."""

from lowbit_compiler.recipes.recipe import Recipe

RECIPE = Recipe("int4-weight-only", weights="int4", activations="float", head="weight-only")
