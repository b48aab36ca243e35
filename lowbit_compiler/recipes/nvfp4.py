"""Weights and activations in NVFP4, 4-bit floats in blocks of 16 with an e4m3 scale each; emulated: to study it, no gain in speed yet."""

from lowbit_compiler.recipes.recipe import Recipe

RECIPE = Recipe("nvfp4", weights="nvfp4", activations="nvfp4", head="weight-only")
