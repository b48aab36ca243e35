"""int4 weights whose numbers are int8 codes of their row, int8 activations: for prompts and batches, where multiplying takes longer than reading."""

from lowbit_compiler.recipes.recipe import Recipe

RECIPE = Recipe("int4-int8", weights="int4-nested", activations="int8", treatment="rotation", group_size=32, head="weight-only")
