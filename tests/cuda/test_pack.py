"""Emulated: packed weights have the bytes of runtime/packing.py."""

import pytest
import torch

from helpers.operands import codes, generator
from helpers.plain import pack_s4, pack_s8


@pytest.mark.parametrize(("n", "k"), [(1, 1), (16, 64), (17, 65), (40, 300)])
def test_pack(machine, n, k):
    scale = torch.rand(n, 1, generator=generator(0))
    want = pack_s8(codes(n, k), scale)
    assert torch.equal(machine.pack(codes(n, k), scale, 0, want), want)
    for group in (32, 64, 128):
        q, scale = codes(n, k, largest=7), torch.rand(n, -(-k // group), generator=generator(0))
        want = pack_s4(q, scale, group)
        assert torch.equal(machine.pack(q, scale, group, want), want)
