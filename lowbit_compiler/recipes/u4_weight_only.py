"""Weights in 4 bits with zero points, in groups; emulated: to study what zero points are worth, no gain in speed yet."""

from lowbit_compiler.recipes.recipe import Recipe

RECIPE = Recipe("u4-weight-only", weights="u4", activations="float", head="weight-only")
