"""Malformed arguments of the ops of training in integers, on every way into one."""

import pytest
import torch

from helpers.malformed import WAYS, compare, linear
from helpers.samples import samples

CASES = [
    ("train_quantize", "bits", linear(1, lambda _: 5), "expected bits in (4, 8), got 5"),
    ("train_quantize", "no columns", linear(0, lambda x: x[:, :0]), "expected K of at least 1, got 0"),
    ("train_multiply", "bits", linear(5, lambda _: 8), "expected x in int8 of shape (5, 128), got torch.uint8 of (5, 64)"),
    ("train_multiply", "columns", linear(6, lambda k: k - 2), "expected x in uint8 of shape (5, 63), got torch.uint8 of (5, 64)"),
    ("train_multiply", "no columns", linear(6, lambda k: 0), "expected k of at least 1, got 0"),
    ("train_multiply", "scales", linear(3, lambda s: s[1:]), "expected w_scale in float32 of shape (33, 1), got torch.float32 of (32, 1)"),
    ("train_multiply", "bias", linear(4, lambda b: b[1:]), "expected bias of shape (33,), got (32,)"),
    ("train_fold", "site", linear(4, lambda _: -1), "expected site from 0 to 2^31 - 1, got -1"),
    ("train_fold", "seed", linear(3, lambda s: s.int()), "expected seed in int64 of shape (1,), got torch.int32 of (1,)"),
    ("train_fold", "another N", linear(0, lambda dy: dy[:, 1:]), "expected q of 32 rows, got 33"),
    ("train_fold", "columns", linear(5, lambda _: True), "expected q of 5 rows, got 33"),
    ("train_fold", "another K", linear(8, lambda k: 200), "expected q in uint8 of shape (33, 128), got torch.uint8 of (33, 64)"),
    ("train_fold", "int result", linear(9, lambda _: torch.int8), "expected dtype float32, bfloat16 or float16, got torch.int8"),
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("op", sorted({op for op, *_ in CASES}))
def test_arguments(op, way):
    cases = {name: (change(samples()[op]), words) for named, name, change, words in CASES if named == op}
    calls = {name: lambda arguments=arguments: WAYS[way](op, arguments) for name, (arguments, _) in cases.items()}
    compare(op, calls, {name: words for name, (_, words) in cases.items()})
