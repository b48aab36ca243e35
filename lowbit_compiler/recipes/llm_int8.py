"""LLM.int8: columns of activations with an outlier stay in float, the rest is int8: for activations whose outliers sit in few columns."""

from lowbit_compiler.recipes.recipe import Recipe

RECIPE = Recipe("llm-int8", treatment="columns")
