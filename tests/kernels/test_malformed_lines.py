"""Malformed arguments of the ops of codes on lines: the words for them on every way in."""

import pytest
import torch

from helpers.malformed import WAYS, compare, linear
from helpers.samples import samples

CASES = [
    ("quantize_u4", "3 dimensions", linear(0, lambda w: w[None]), "expected w of shape [N, K], got 3 dimensions"),
    ("quantize_u4_nested", "group 48", linear(1, lambda _: 48), "expected group in (32, 64, 128), got 48"),
    ("linear_fu4", "group 48", linear(4, lambda _: 48), "expected group in (32, 64, 128), got 48"),
    ("linear_s8u4_nested", "group 48", linear(4, lambda _: 48), "expected group in (32, 64, 128), got 48"),
    ("linear_fu4", "group 16", linear(4, lambda _: 16), "expected group in (32, 64, 128), got 16"),
    ("linear_fz4", "group 48", linear(4, lambda _: 48), "expected group in (32, 16, 64, 128), got 48"),
    ("pack_z6", "group 8", linear(4, lambda _: 8), "expected group in (32, 16, 64, 128), got 8"),
    ("pack_z4", "float16 scales", linear(1, lambda s: s.half()), "expected scale in float32 of shape (33, 4), got torch.float16 of (33, 4)"),
    ("pack_u4", "group 48", linear(4, lambda _: 48), "expected group in (32, 64, 128), got 48"),
    ("pack_u4", "int8 codes", linear(0, lambda q: q.view(torch.int8)), "expected q in uint8 of 2 dimensions, got torch.int8 of 2 dimensions"),
    ("pack_u4", "fewer groups", linear(1, lambda s: s[:, 1:]), "expected scale in float16 of shape (33, 4), got torch.float16 of (33, 3)"),
    ("pack_u4", "float minima", linear(2, lambda m: m.float()), "expected minimum in float16 of shape (33, 4), got torch.float32 of (33, 4)"),
    ("pack_u4", "flat outer", linear(3, lambda o: o.flatten()), "expected outer in float32 of shape (33, 1), got torch.float32 of (33,)"),
    ("pack_u4_nested", "scales", linear(1, lambda s: s.float()), "expected scale in uint8 of shape (33, 4), got torch.float32 of (33, 4)"),

]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("op", sorted({op for op, *_ in CASES}))
def test_words(op, way):
    cases = {name: (change(samples()[op]), words) for named, name, change, words in CASES if named == op}
    calls = {name: lambda arguments=arguments: WAYS[way](op, arguments) for name, (arguments, _) in cases.items()}
    compare(op, calls, {name: words for name, (_, words) in cases.items()})
