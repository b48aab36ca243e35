"""Weights and activations in int8, one scale a row, and nothing done with outliers: for models that have none."""

from lowbit_compiler.recipes.recipe import Recipe

RECIPE = Recipe("int8-vector")
