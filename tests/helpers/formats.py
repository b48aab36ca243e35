"""Every operand there is, for tests that hold for all of them."""

from lowbit_compiler.runtime.formats import FORMATS, Operand, operand
from lowbit_compiler.runtime.formats.scales import Groups

WORDS = ("int8", "int4", "u4", "mxfp4", "nvfp4", "e4m3", "e3m4", "e2m1", "e0m3", "e1m1", "e2m0", "e5m2", "e8m7")
"""Each word of a recipe, and floats of all kinds: fixed points, without mantissa, as wide as the numbers of float32."""


def _all() -> dict[str, Operand]:
    found = {}
    for word in WORDS:
        for group in Groups.sizes:
            one = operand(word, group)
            assert one is not None
            found[f"{word} {one.scale.name}".strip()] = one
    return found


OPERANDS = _all()
assert {one.kind for one in OPERANDS.values()} == {(format, scale) for format in FORMATS for scale in format.scales}
