"""Weights -1, 0 and 1 with a scale a row, int8 activations: for models that were trained so (BitNet b1.58).

What was not loses nearly everything.
"""

from lowbit_compiler.recipes.recipe import Recipe

RECIPE = Recipe("ternary", weights="ternary", head="weight-only")
