"""What softmax keeps under changes of its input, which algorithm rows take, and what it refuses."""

import re
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import bounds
from helpers.softmax import ALGORITHMS
from lowbit_compiler.runtime import kernels, library

L = torch.ops.lowbit
EPS = bounds.EPS
TINY = 2.0**-125  # results below may be flushed to zero
pytestmark = pytest.mark.skipif(library.handle() is None, reason="no native library")


def softmax(x, dim=-1, scale=1.0, mask=None, log=False, dtype=None):
    return L.softmax(x, dim, scale, mask, log, dtype)


numbers = st.lists(st.integers(-(2**16), 2**16), min_size=1, max_size=200)


@settings(max_examples=60, deadline=None)
@given(numbers, st.randoms(use_true_random=False), st.sampled_from(ALGORITHMS))
def test_permutation(values, random, algorithm):
    x, order = torch.tensor(values) / 1024, list(range(len(values)))
    random.shuffle(order)
    with kernels.forcing_softmax(algorithm):
        y, permuted = softmax(x), softmax(x[order])
    assert bool(((permuted - y[order]).abs() <= (len(values) + 4) * EPS * y[order] + TINY).all())


@settings(max_examples=60, deadline=None)
@given(numbers, st.integers(-(2**13), 2**13), st.sampled_from(ALGORITHMS))
def test_shift(values, shift, algorithm):
    x = torch.tensor(values) / 1024  # x + shift is exact
    with kernels.forcing_softmax(algorithm):
        y, shifted = softmax(x).double(), softmax(x + shift).double()
    assert bool(((shifted - y).abs() <= 16 * EPS * y + TINY).all())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-(2**16), 2**16), st.booleans()), min_size=1, max_size=200), st.sampled_from(ALGORITHMS))
def test_mask_is_a_subset(pairs, algorithm):
    x, keep = torch.tensor([v for v, _ in pairs]) / 1024, torch.tensor([k for _, k in pairs])
    keep[0] = True
    for mask in (keep, torch.zeros(len(pairs)).masked_fill(~keep, -torch.inf), torch.zeros(len(pairs)).masked_fill(~keep, -1e9)):
        with kernels.forcing_softmax(algorithm):
            y, subset = softmax(x, mask=mask), softmax(x[keep]).double()
        assert not y[~keep].any()
        assert bool(((y[keep] - subset).abs() <= 16 * EPS * subset + TINY).all())


def asks_for_large_pages(y):
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if match := re.match("([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(match[1], 16) <= y.data_ptr() + y.nbytes // 2 < int(match[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
    pytest.skip("no flags of memory to read")


@pytest.mark.skipif(sys.platform != "linux", reason="asked of Linux")
def test_large_pages():
    assert not asks_for_large_pages(softmax(torch.zeros(4, 1 << 20)))  # of the heap, which others use after it
    if not asks_for_large_pages(softmax(torch.zeros(16, 1 << 20))):
        pytest.skip("the system has no large pages")


def test_choice():
    handle = library.handle()
    threshold = handle.lowbit_softmax_threshold()
    try:
        handle.lowbit_set_softmax_threshold(1000)
        assert [kernels.softmax_passes(n, torch.float32) for n in (1, 1000, 1001)] == ["three-pass", "three-pass", "two-pass"]
        assert kernels.softmax_passes(1000, torch.bfloat16) == "three-pass"
        assert kernels.softmax_passes(1001, torch.bfloat16) == "two-pass"
        x = torch.randn(3, 1500)
        assert float((softmax(x) - torch.softmax(x.double(), -1)).abs().max()) <= 8 * EPS
    finally:
        handle.lowbit_set_softmax_threshold(threshold)
    with pytest.raises(ValueError, match="expected an algorithm in"), kernels.forcing_softmax("four-pass"):
        pass


def test_wrong_input():
    x = torch.randn(3, 4)
    for arguments, words in [
        ((x.double(),), "expected x in float32, bfloat16 or float16, got torch.float64"),
        ((x, 2), "expected dim from -2 to 1, got 2"),
        ((x, 1, 1.0, torch.ones(3)), r"expected mask that broadcasts to \(3, 4\), got \(3,\)"),
        ((x, 1, 1.0, torch.ones(3, 4).long()), "expected mask in bool, float32, bfloat16 or float16, got torch.int64"),
        ((x, 1, 1.0, None, False, torch.int8), "expected dtype float32, bfloat16 or float16, got torch.int8"),
    ]:
        with pytest.raises(RuntimeError, match=f"lowbit::softmax: {words}"):
            softmax(*arguments)
        with pytest.raises(RuntimeError, match=f"lowbit::softmax: {words}"):
            softmax(*(a.to("meta") if isinstance(a, torch.Tensor) else a for a in arguments))
