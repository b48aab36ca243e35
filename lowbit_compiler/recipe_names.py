"""The list of recipes, in the order in which they are shown: the files in recipes/. Apart from them, as help must not pay for torch."""

FILES = (
    "int8",
    "llm_int8",
    "int8_vector",
    "int8_weight_only",
    "int8_switchable",
    "int4",
    "int4_int8",
    "int4_weight_only",
    "int3",
    "ternary",
    "ternary_weight_only",
    "mxfp4",
    "nvfp4",
)
NAMES = tuple(file.replace("_", "-") for file in FILES)
DEFAULT = NAMES[0]
