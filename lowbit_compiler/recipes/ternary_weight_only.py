"""Weights -1, 0 and 1 with a scale a group, float activations: for models that were trained so (TriLM), on any number of devices.

What was not loses nearly everything.
"""

from lowbit_compiler.recipes.recipe import Recipe

RECIPE = Recipe("ternary-weight-only", weights="ternary-groups", activations="float", group_size=128, head="weight-only")
