"""int4 weights on a line for each group, float activations: without data, and with less than half the memory of int8."""

from lowbit_compiler.recipes.recipe import Recipe

RECIPE = Recipe("int4-weight-only", weights="int4", activations="float", group_size=32, head="weight-only")
