"""int8 weights, float activations: for few rows at a time (decoding), where reading weights is what takes time, at hardly any error."""

from lowbit_compiler.recipes.recipe import Recipe

RECIPE = Recipe("int8-weight-only", activations="float", head="same")
