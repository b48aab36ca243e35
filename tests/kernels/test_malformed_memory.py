"""Memory that is odd: more than there is, none, or starting anywhere."""

import pytest
import torch

from helpers.children import outcomes
from helpers.plain import packed_bytes
from helpers.samples import K, N, samples

L = torch.ops.lowbit


def test_more_memory_than_there_is():
    """Rows without end from one number: nothing overflows on the way to torch's own out-of-memory error."""
    x = torch.ones(1, 1)
    calls = {
        "quantize_s8": lambda: L.quantize_s8(x.expand(2**40, K)),
        "rotate": lambda: L.rotate(x.expand(2**40, K)),
        "long row": lambda: L.quantize_s8(x.expand(1, 2**46)),
        "linear_fs8": lambda: L.linear_fs8(x.expand(2**40, K), *samples()["linear_fs8"][1:]),
        "softmax": lambda: L.softmax(x.expand(2**40, 9), -1, 1.0, None, False, None),
        "columns": lambda: L.softmax(x.expand(9, 2**40), 0, 1.0, None, False, None),
        "pack_s8": lambda: L.pack_s8(x.char().expand(2**40, 64), torch.ones(1).expand(2**40)),
    }
    got = outcomes(calls)
    assert all("memory" in got.get(name, "") for name in calls), got


def test_nothing_to_do():
    packed = torch.zeros(0, packed_bytes(K), dtype=torch.int8)
    assert L.linear_s8s8(torch.ones(1, 1).expand(2**40, K), packed, None, 0, None).shape == (2**40, 0)
    assert L.linear_s8s8(torch.ones(0, K), *samples()["linear_s8s8"][1:]).shape == (0, N)


@pytest.mark.parametrize("offset", [1, 2, 3])
@pytest.mark.parametrize(
    "op",
    [
        "linear_s8s8",
        "linear_fs4",
        "linear_fu4",
        "linear_s8u4_nested",
        "quantize_u4",
        "pack_u4",
        "quantize_s8",
        "quantize_s4",
        "rotate",
        "softmax",
        "sdpa",
        "pack_s8",
    ],
)
def test_memory_that_starts_anywhere(op, offset):
    """Tensors over lent memory whose elements are not where a compiler expects them: the same values."""

    def moved(t):
        if not isinstance(t, torch.Tensor):
            return t
        t = t.contiguous()
        memory = bytearray(t.numel() * t.element_size() + offset)
        at = torch.frombuffer(memory, dtype=t.dtype, count=t.numel(), offset=offset).view(t.shape)
        return at.copy_(t)

    arguments = samples(torch.float32)[op]
    expected, got = (getattr(L, op)(*given) for given in (arguments, [moved(a) for a in arguments]))
    for want, have in zip(*((r if isinstance(r, tuple) else (r,)) for r in (expected, got)), strict=True):
        assert torch.equal(want, have)
