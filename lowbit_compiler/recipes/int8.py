"""Weights and activations in int8, rotated first so that outliers spread over a row: the one to begin with."""

from lowbit_compiler.recipes.recipe import Recipe

RECIPE = Recipe("int8", treatment="rotation", head="same")
