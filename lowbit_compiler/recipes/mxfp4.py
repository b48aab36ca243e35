"""Weights and activations in MXFP4, 4-bit floats in blocks of 32 with a power of two each; emulated: to study it, no gain in speed yet."""

from lowbit_compiler.recipes.recipe import Recipe

RECIPE = Recipe("mxfp4", weights="mxfp4", activations="mxfp4", head="weight-only")
