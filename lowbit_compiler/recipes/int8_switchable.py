"""int8 weights and activations as int8-vector has them; lowbit.switch_bits lets products read 6 or 4 bits of the weights, and 8 again."""

from lowbit_compiler.recipes.recipe import Recipe

RECIPE = Recipe("int8-switchable", weights="int8-switchable")
