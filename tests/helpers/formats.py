"""Every operand there is, for tests that hold for all of them."""

from lowbit_compiler.runtime.formats import KINDS, WORDS, Operand, operand
from lowbit_compiler.runtime.formats.scales import Groups

MORE = ("e2m1", "e0m3", "e1m1", "e2m0", "e8m7")
"""Floats of all kinds: fixed points, without mantissa, as wide as the numbers of float32."""


def _all() -> dict[str, Operand]:
    found = {}
    for word in (*WORDS, *MORE):
        for group in Groups.sizes:
            one = operand(word, group)
            assert one is not None
            found[f"{word} {one.scale.name}".strip()] = one
    return found


OPERANDS = _all()
assert {one.kind for one in OPERANDS.values()} == set(KINDS)
