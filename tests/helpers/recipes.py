"""Recipes whose products have no kernel: weights alone, and both operands."""

from lowbit_compiler.recipes import Recipe

EMULATED = {
    "int2": Recipe("int2", "int2", "float", group_size=32),
    "mxfp4-weights": Recipe("mxfp4-weights", "mxfp4", "float"),
    "nvfp4-weights": Recipe("nvfp4-weights", "nvfp4", "float"),
    "e4m3-weights": Recipe("e4m3-weights", "e4m3", "float"),
    "mxfp4": Recipe("mxfp4", "mxfp4", "mxfp4"),
    "nvfp4": Recipe("nvfp4", "nvfp4", "nvfp4"),
    "e4m3": Recipe("e4m3", "e4m3", "e4m3", group_size=128),
    "e4m3-rotated": Recipe("e4m3-rotated", "e4m3", "e4m3", "rotation"),
    "mxfp4-int8": Recipe("mxfp4-int8", "mxfp4", "int8"),
    "mxfp4-columns": Recipe("mxfp4-columns", "mxfp4", "mxfp4", "columns", threshold=4.0),
}
assert all(recipe.plan.product is None for recipe in EMULATED.values())
