"""Codes in planes of bits, on lines, ternary or of a codebook: panels, quantizers and products of every kernel of this machine."""

import pytest
import torch
from torch import Tensor

from helpers import bounds, operands
from helpers.plain import reference
from lowbit_compiler.runtime import kernels, library
from lowbit_compiler.runtime.formats import Operand
from lowbit_compiler.runtime.formats.affine import U4
from lowbit_compiler.runtime.formats.lines import HalfLines, IntegerLines
from lowbit_compiler.runtime.formats.scales import Row
from lowbit_compiler.runtime.formats.ternary import Shards, Ternary
from lowbit_compiler.runtime.formats.zeros import Z4, Z6, FloatLines
from lowbit_compiler.runtime.products import PRODUCTS

L = torch.ops.lowbit
KINDS = [weight for (_, weight, _), product in PRODUCTS.items() if product.fixed_error]
OPERANDS = [Operand(format(), scale.sized(group)) for format, scale in KINDS for group in scale.sizes or (64,)]
MS = (1, 2, 3, 4, 5, 9, 17, 40)

pytestmark = pytest.mark.skipif(library.handle() is None, reason="no native library")
every = pytest.mark.parametrize(
    "one", OPERANDS, ids=lambda one: "-".join(map(str, (f"{one.format}{one.scale.suffix}", *one.scale.arguments)))
)


def linear(one: Operand) -> str:
    return f"linear_f{one.format.name}{one.scale.suffix}"


def family(one: Operand) -> str:
    return f"fgemm_{one.format.name}{one.scale.suffix}"


def kernels_of(*families: str) -> list[str]:
    return [k.name for k in kernels.kernels() if k.family in families and k.isa in library.status().detected]


def lopsided(n: int, k: int) -> Tensor:
    """Rows of both signs, of one sign, of one number, and with an outlier."""
    w = operands.weight(n, k)
    w[1::4] = w[1::4].abs() + 0.1
    w[2::4] = 0.25
    w[3::4, 0] *= 100
    return w


@every
@pytest.mark.parametrize(("n", "k"), [(1, 1), (16, 64), (33, 100), (40, 300)])
def test_panels(one, n, k):
    """The kernel packs the bytes of the reference, and these hold the parts."""
    parts = one.quantize(lopsided(n, k))
    packed = one.op("pack")(*parts, *one.arguments)
    assert torch.equal(packed, one.pack(parts))
    assert packed.shape[1] == one.panel_bytes(k)
    unpacked = one.unpack(packed, n, k)
    assert not unpacked[0][:, k:].any()
    for whole, part in zip(unpacked, parts, strict=True):
        assert torch.equal(whole[:, : part.shape[1]], part)


def test_bits_of_a_weight():
    """4.5 of them with groups of 64, of float32 lines with 128, beside one number for a row; 2 of ternary ones, beside two."""
    assert Operand(U4(), HalfLines(64)).panel_bytes(4096) * 8 == 16 * (4096 * 4.5 + 32)
    assert Operand(Z4(), FloatLines(128)).panel_bytes(4096) * 8 == 16 * (4096 * 4.5 + 32)
    assert Operand(Z6(), FloatLines(16)).panel_bytes(4096) * 8 == 16 * (4096 * 10 + 32)
    assert Operand(Ternary(), Row()).panel_bytes(4096) * 8 == 16 * (4096 * 2 + 64)
    assert Operand(Ternary(), Shards(128)).panel_bytes(4096) * 8 == 16 * (4096 * 2.25)


@pytest.mark.parametrize("one", [one for one in OPERANDS if one.format.panels.quantizers], ids=str)
@pytest.mark.parametrize("size", [1.0, 2.0**-100, 2.0**100])
def test_quantizers_are_the_reference(isa, one, size):
    w = lopsided(9, 300) * size
    w[4] = 0
    w[5, 40], w[6, 299] = float("nan"), float("inf")
    for case in (w, w[:4, :1], w[:, :45].bfloat16()):
        with kernels.using(isa=isa):
            got = one.op("quantize")(case, *one.arguments)
        for have, want in zip(got, one.quantize(case), strict=True):
            torch.testing.assert_close(have, want, rtol=0, atol=0, equal_nan=True)


@every
@pytest.mark.parametrize(("n", "k"), [(1, 1), (17, 65), (40, 300)])
def test_products(one, n, k):
    parts = one.quantize(lopsided(n, k))
    packed, bias = one.pack(parts), torch.randn(n, generator=operands.generator(3))
    for dtype in operands.DTYPES:
        for m in MS:
            x = operands.rows(m, k, dtype)
            expected = bounds.on_lines(x, one, parts, bias, dtype)
            for kernel in kernels_of(family(one)):
                with kernels.using(kernel=kernel):
                    bounds.assert_within(getattr(L, linear(one))(x, packed, bias, n, *one.arguments, None), *expected)


@pytest.mark.parametrize("m", [1, 5, 40])
def test_signed_scales(m):
    """Of ggml's Q6_K: signed scales of groups of 16, and code 32 for 0, so that what codes count from and they themselves nearly cancel."""
    one, n, k, g = Operand(Z6(), FloatLines(16)), 40, 304, operands.generator(4)
    scale = torch.randint(-128, 128, (n, k // 16), generator=g) * 2.0**-14
    codes = torch.randint(0, 64, (n, k), dtype=torch.uint8, generator=g)
    parts = (codes, scale, -32 * scale, torch.ones(n, 1))
    packed = one.op("pack")(*parts, 16)
    assert torch.equal(packed, one.pack(parts))
    for dtype in operands.DTYPES:
        x = operands.rows(m, k, dtype)
        expected = bounds.on_lines(x, one, parts, None, dtype)
        for kernel in kernels_of(family(one)):
            with kernels.using(kernel=kernel):
                bounds.assert_within(L.linear_fz6(x, packed, None, n, 16, None), *expected)


@every
def test_rows_that_integers_cannot_hold(one):
    """NaN and infinity come out where the float product has them; rows beyond the range of fixed point are as close as others."""
    n, k = 20, 200
    parts = one.quantize(lopsided(n, k))
    packed = one.pack(parts)
    x = operands.rows(7, k, torch.float32)
    x[1], x[2], x[3] = x[1] * 2.0**-110, x[2].sign() * 2.0**100, 0
    bound = bounds.on_lines(x, one, parts, None, torch.float32)
    x[5, 3], x[6, 5] = float("nan"), float("inf")
    w = one.dequantize(parts)
    for kernel in kernels_of(family(one)):
        with kernels.using(kernel=kernel):
            y = getattr(L, linear(one))(x, packed, None, n, *one.arguments, None)
        bounds.assert_within(y[:5], bound[0][:5], bound[1][:5])
        assert y[5].isnan().all()
        assert torch.equal(y[6][w[:, 5] != 0], w[:, 5][w[:, 5] != 0].sign() * float("inf"))


def test_ternary_integers():
    """The bits of the reference, with prologues too, for rows that are quantized; the others are not finite where the reference is not."""
    one = Operand(Ternary(), Row())
    for n, k in [(1, 1), (17, 65), (64, 512), (100, 1000)]:
        packed, bias = one.pack(one.quantize(lopsided(n, k))), torch.randn(n, generator=operands.generator(3))
        for m in (*MS, 130):
            x = operands.rows(m, k, torch.bfloat16)
            if m > 3:
                x[1, 0], x[2, k // 2] = float("nan"), float("inf")
            fine = torch.isfinite(x).all(1)
            want = reference("linear_s8ternary", x, packed, bias, n, torch.float32)
            for kernel in kernels_of("qgemm", "qgemm_ternary"):
                with kernels.using(kernel=kernel):
                    got = L.linear_s8ternary(x, packed, bias, n, torch.float32)
                    turned = L.linear_s8ternary(x, packed, bias, n, torch.float32, prologue="relu")
                assert torch.equal(got[fine], want[fine])
                assert not got[~fine].isfinite().any()
                assert torch.equal(turned[fine], L.linear_s8ternary(x[fine].relu(), packed, bias, n, torch.float32))


def test_ternary_extremes():
    """Sums that 16 bits would not hold, at the greatest and the least of both operands."""
    one, n, k = Operand(Ternary(), Row()), 16, 8192
    sign = torch.where(torch.arange(k) % 2 == 0, 1.0, -1.0)
    for w in (torch.ones(n, k), -torch.ones(n, k), sign.expand(n, k), torch.zeros(n, k)):
        packed = one.pack(one.quantize(w))
        for x in (torch.ones(3, k), sign.expand(3, k).contiguous(), -torch.ones(9, k)):
            want = (x * 127).double() @ w.double().t() * (torch.tensor(1.0) / 127).double()
            for kernel in kernels_of("qgemm", "qgemm_ternary"):
                with kernels.using(kernel=kernel):
                    assert torch.equal(L.linear_s8ternary(x, packed, None, n, None), want.float())


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("op", ["linear_s8u4_nested", "linear_s8u4_nested_rotated"])
def test_nested_integers(op, group):
    """The bits of the reference, for rows that are quantized; the others are not finite where the reference is not."""
    one = Operand(U4(), IntegerLines(group))
    for n, k in [(1, 1), (17, 65), (64, 512), (100, 1000)]:
        w = lopsided(n, k)
        packed = one.pack(one.quantize(L.rotate(w) if op.endswith("rotated") else w))
        for m in (*MS, 130):
            x = operands.rows(m, k, torch.bfloat16)
            if m > 3:
                x[1, 0], x[2, k // 2] = float("nan"), float("inf")
            fine = torch.isfinite(x).all(1)
            want = reference(op, x, packed, None, n, group, torch.float32)
            for kernel in kernels_of("qgemm", "qgemm_u4"):
                with kernels.using(kernel=kernel):
                    got = getattr(L, op)(x, packed, None, n, group, torch.float32)
                assert torch.equal(got[fine], want[fine])
                assert not got[~fine].isfinite().any()


def test_nested_extremes():
    """All codes at the ends, for which sums of products are largest."""
    one, n, k = Operand(U4(), IntegerLines(128)), 16, 4096
    sign = torch.where(torch.arange(k) % 2 == 0, 1.0, -1.0)
    for w in (torch.ones(n, k), -torch.ones(n, k), sign.expand(n, k)):
        packed = one.pack(one.quantize(w))
        for x in (torch.ones(3, k), sign.expand(3, k).contiguous(), -torch.ones(9, k)):
            want = reference("linear_s8u4_nested", x, packed, None, n, 128, None)
            for kernel in kernels_of("qgemm", "qgemm_u4"):
                with kernels.using(kernel=kernel):
                    assert torch.equal(L.linear_s8u4_nested(x, packed, None, n, 128, None), want)


@pytest.mark.parametrize("m", [1, 5, 40])
@pytest.mark.parametrize("op", ["linear_fu4", "linear_s8u4_nested"])
def test_threads(op, m):
    """Any number of threads gives the same bits."""
    one = Operand(U4(), HalfLines(64) if op == "linear_fu4" else IntegerLines(64))
    x, w = operands.rows(m, 576, torch.bfloat16), one.pack(one.quantize(operands.weight(1000, 576)))
    results = operands.on_threads((1, 2, 3), lambda: getattr(L, op)(x, w, None, 1000, 64, None))
    assert all(torch.equal(results[0], other) for other in results[1:])
