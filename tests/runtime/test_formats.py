"""Every format with every scale: errors within the steps that it promises, parts as it says, and ops that are its functions."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from helpers import operands
from helpers.bounds import EPS
from helpers.formats import OPERANDS
from lowbit_compiler.runtime.formats import Operand
from lowbit_compiler.runtime.formats.lines import HalfLines, IntegerLines, Lines

L = torch.ops.lowbit
MX, NV, LINES = OPERANDS["mxfp4 e8m0 b32"], OPERANDS["nvfp4 e4m3 b16"], OPERANDS["int4 g64"]
every = pytest.mark.parametrize("one", OPERANDS.values(), ids=OPERANDS)


def back(one: Operand, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return one.dequantize(one.quantize(x), dtype)


def has_zero(one: Operand) -> bool:
    least, most = one.format.grid.codes
    return bool((one.format.grid.decode(torch.arange(least, most + 1).to(one.format.grid.dtype)) == 0).any())


def allowed(one: Operand, x: Tensor) -> Tensor:
    """The step of each element of ``x``."""
    return one.scale.spread(one.step(x), x.shape[-1])


@every
@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 300)),
    size=st.sampled_from([-130, -121, -119, -100, -40, -8, 0, 9, 60, 120]),
    spread=st.integers(0, 40),
    dtype=st.sampled_from(operands.DTYPES),
    zeros=st.booleans(),
    seed=st.integers(0, 1 << 16),
)
def test_error_is_within_the_step(one: Operand, shape, size, spread, dtype, zeros, seed) -> None:
    """Any shape, elements of many magnitudes beside each other, rows of zeros, rows at both ends of float32."""
    x = operands.rows(*shape, torch.float32, seed).clamp(-100, 100)
    x = (x * 2.0**size * 2.0 ** -torch.randint(0, spread + 1, x.shape, generator=operands.generator(seed))).to(dtype)
    x = torch.where(torch.isfinite(x), x, torch.zeros_like(x))
    if zeros:
        x[::2] = 0
    error = (back(one, x).double() - x.double()).abs()
    step = allowed(one, x)
    assert bool((error <= step).all())
    assert bool((step <= 1.001 * x.double().abs().max()).all())  # no worse than to say zero
    if not isinstance(one.scale, Lines) and has_zero(one):  # 0 need not be on a line, nor in a codebook
        assert not error[x == 0].any()


@every
def test_error_of_one_element_fills_the_step(one: Operand) -> None:
    """The promise is no larger than it has to be: some element is wrong by 0.8 of it."""
    x = torch.randn(64, 512)
    assert float(((back(one, x).double() - x.double()).abs() / allowed(one, x)).max()) > (0.4 if one.format.grid.bits == 3 else 0.8)


@every
def test_powers_of_two_change_nothing_but_the_scale(one: Operand) -> None:
    x = torch.randn(7, 200)
    codes, *_ = one.quantize(x)
    for k in (-60, -3, 1, 50):
        again, *_ = one.quantize(x * 2.0**k)
        assert torch.equal(codes, again)
        assert torch.equal(back(one, x * 2.0**k), back(one, x) * 2.0**k)


@every
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_in_its_block(one: Operand, value: float) -> None:
    x = torch.randn(5, 200)
    want = back(one, x)
    spoiled = x.clone()
    spoiled[2, 70] = value
    if not one.scale.row_local:  # the outer scale is that of the largest
        x[2, 70] = spoiled[2, 70] = 0
        x[0, 0] = spoiled[0, 0] = 9.0
        want = back(one, x)
        spoiled[2, 70] = value
    got = back(one, spoiled)
    block = 200 if isinstance(one.scale, IntegerLines) else one.scale.block(200)
    first = 70 // block * block
    hit = torch.zeros_like(x, dtype=torch.bool)
    hit[2, first : first + block] = True
    assert bool(torch.isnan(got[hit]).all())
    assert torch.equal(got[~hit], want[~hit])


@every
@pytest.mark.parametrize(("n", "k"), [(1, 1), (1, 32), (3, 129), (0, 64)])
def test_parts_are_what_they_say(one: Operand, n: int, k: int) -> None:
    x = torch.randn(n, k).bfloat16()
    parts = one.quantize(x)
    assert len(parts) == len(one.parts)
    for part, tensor in zip(one.parts, parts, strict=True):
        assert tensor.dtype is part.dtype
        groups = one.scale.count(k)
        assert tensor.shape == {"element": (n, k), "block": (n, groups), "row": (n, 1), "tensor": ()}[part.each]
        assert tensor.is_contiguous()
    least, most = one.format.grid.codes
    assert bool((parts[0] >= least).all() and (parts[0] <= most).all())
    for dtype in operands.DTYPES:
        assert one.dequantize(parts, dtype).dtype is dtype
        assert torch.equal(one.dequantize(parts, dtype), one.dequantize(parts).to(dtype))


@every
@pytest.mark.parametrize("shape", [(3, 70), (40, 256)])
def test_ops_are_its_functions(one: Operand, shape: tuple[int, int]) -> None:
    x = operands.rows(*shape, torch.float32)
    parts = one.op("quantize")(x, *one.arguments)
    assert all(torch.equal(a, b) for a, b in zip(parts, one.quantize(x), strict=True))
    wide = one.op("dequantize")(*parts, *one.arguments, torch.float32)
    assert torch.equal(wide, one.dequantize(tuple(parts)))


@every
def test_ops_on_fake_tensors(one: Operand) -> None:
    def run(x: Tensor) -> list[Tensor]:
        parts = one.op("quantize")(x, *one.arguments)
        return [*parts, one.op("dequantize")(*parts, *one.arguments, torch.bfloat16)]

    real = run(torch.randn(5, 90))
    with FakeTensorMode():
        fake = run(torch.randn(5, 90))
    assert [(a.shape, a.dtype) for a in fake] == [(a.shape, a.dtype) for a in real]


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("int8", 8 + 32 / 4096),
        ("int4 g32", 5 + 32 / 4096),
        ("int4 g64", 4.5 + 32 / 4096),
        ("int4-nested nested g32", 4.5 + 32 / 4096),
        ("int4-symmetric g32", 5.0),
        ("iq4 g32", 4.5 + 32 / 4096),
        ("nf4 g64", 4.25 + 32 / 4096),
        ("mxfp4 e8m0 b32", 4.25),
        ("nvfp4 e4m3 b16", 4.5),
        ("e4m3 g128", 8.25),
        ("e8m7 g128", 16.25),
    ],
)
def test_bits_of_an_element(name: str, bits: float) -> None:
    one = OPERANDS[name]
    assert 8 * one.row_bytes(4096) / 4096 == bits


@pytest.mark.parametrize(("one", "error"), [(MX, 0.0132), (NV, 0.0090)], ids=["mxfp4", "nvfp4"])
def test_published_mean_squared_error(one: Operand, error: float) -> None:
    """Of N(0, 1): Quartet (arXiv 2505.14669) for MXFP4."""
    x = torch.randn(2048, 512)
    assert float((back(one, x) - x).double().square().mean()) == pytest.approx(error, rel=0.02)


def test_powers_of_two_as_the_standard_says() -> None:
    """The exponent of the largest less that of the grid's (2), plus 127 (OCP Microscaling 1.0, section 6.3); NaN for what is not finite."""
    largest = [0.0, 2.0**-149, 2.0**-126, 2.0**-125, 1.0, 3.99, 4.0, 6.0, 7.99, 8.0, 2.0**127, 3e38, torch.inf, -torch.inf, torch.nan]
    x = torch.zeros(len(largest), 32)
    x[:, 5] = torch.tensor(largest)
    codes, scale = MX.quantize(x)
    assert scale.flatten().tolist() == [0, 0, 0, 0, 125, 126, 127, 127, 127, 128, 252, 252, 255, 255, 255]
    assert codes[:, 5].tolist()[4:12] == [6, 7, 6, 7, 7, 6, 6, 7]
    wide = MX.dequantize((codes, scale))
    assert wide[4:12, 5].tolist() == [1.0, 3.0, 4.0, 6.0, 6.0, 8.0, 2.0**127, 1.5 * 2.0**127]
    assert bool(torch.isnan(wide[12:]).all())
    assert not wide[0].any()


def test_the_ends_of_powers_of_two() -> None:
    """0 is 2^-127, which float32 holds as subnormal alone: zero here; 254 is 2^127, 255 is NaN."""
    scale = torch.tensor([[0], [1], [254], [255]], dtype=torch.uint8)
    codes = torch.zeros(4, 32, dtype=torch.int8)
    codes[:, 0] = torch.tensor([2, 2, 2, 2])
    assert MX.dequantize((codes, scale))[:3, 0].tolist() == [0.0, 2.0**-126, 2.0**127]
    assert bool(torch.isnan(MX.dequantize((codes, scale))[3]).all())


@pytest.mark.parametrize("k", [-90, -3, 0, 7, 60])
def test_numbers_above_six_saturate(k: int) -> None:
    x = torch.zeros(1, 32)
    x[0, :3] = torch.tensor([7.99, -6.5, 5.1]) * 2.0**k
    assert back(MX, x)[0, :4].tolist() == [6 * 2.0**k, -6 * 2.0**k, 6 * 2.0**k, 0.0]
    assert float(MX.step(x)) >= 1.99 * 2.0**k


def test_nvfp4() -> None:
    """The outer scale takes the largest to 448 times 6, a scale in e4m3 each block to it; a tensor of zeros has some scale, no NaN."""
    x = torch.randn(6, 64)
    _, inner, outer = NV.quantize(x)
    assert float(outer) == pytest.approx(float(x.abs().max()) / (448 * 6), rel=2 * EPS)
    most = x.abs().reshape(6, 4, 16).amax(-1)
    scales = NV.scale.unit(inner, outer).double()
    assert bool(((scales * 6 - most.double()).abs() <= most / 16 + 4 * EPS).all())  # half a unit of three bits
    assert int(inner.max()) == 126  # 448: the next is NaN
    assert not back(NV, torch.zeros(3, 40)).any()
    assert bool(torch.isfinite(NV.quantize(torch.zeros(3, 40))[2]))


def test_a_block_too_small_to_count() -> None:
    """Its scale would be one whose inverse overflows float32."""
    x = torch.full((2, 16), 2.0**-129)
    x[1] = 2.0**-117
    wide = back(NV, x)
    assert not wide[0].any()
    assert bool(((wide[1] - x[1]).abs() <= NV.step(x)[1]).all())


def test_a_small_block_beside_a_large_one_becomes_zero() -> None:
    """e4m3 reaches down to 2^-10 of its largest's 2^8.8: what is smaller has no scale, and the step says so."""
    x = torch.randn(1, 32)
    x[0, :16] *= 2.0**-40
    wide = back(NV, x)
    assert not wide[0, :16].any()
    assert bool(wide[0, 16:].any())
    assert torch.equal(NV.step(x)[0, 0], x[0, :16].abs().max().double())


def test_a_line_through_what_lies_on_one() -> None:
    """Codes are found again, and nothing is lost that float16 holds: every group of one sign too uses every code."""
    q = torch.arange(64).reshape(1, 64) % 16
    for slope, minimum in [(0.5, 4.0), (0.25, -2.0), (2.0, -40.0)]:
        x = slope * q + minimum
        codes, scale, low, outer = LINES.quantize(x)
        assert torch.equal(codes, q.to(torch.uint8))
        assert torch.equal(LINES.dequantize((codes, scale, low, outer)), x)
        assert (float(scale * outer), float(low * outer)) == (slope, minimum)


@every
def test_least_squares_beats_minimum_and_maximum(one: Operand) -> None:
    if not isinstance(one.scale, Lines):
        pytest.skip("no line")
    x = torch.randn(64, 256)
    blocks = x.reshape(64, -1, one.scale.block(256))
    low, step = blocks.amin(-1, keepdim=True), (blocks.amax(-1, keepdim=True) - blocks.amin(-1, keepdim=True)) / one.format.grid.codes[1]
    plain = (torch.round((blocks - low) / step) * step + low).reshape(x.shape)
    better = (back(one, x) - x).square().mean() / (plain - x).square().mean()
    assert float(better) < (0.97 if isinstance(one.scale, HalfLines) else 1.6)


def test_importance_moves_the_line() -> None:
    """Where errors of some columns count a hundredfold, theirs become smaller."""
    x = torch.randn(64, 64)
    importance = torch.where(torch.arange(64) % 8 == 0, 100.0, 1.0)
    errors = [
        (LINES.dequantize(LINES.format.quantize(x, LINES.scale, weight)) - x).square()[:, importance > 1].mean()
        for weight in (None, importance)
    ]
    assert float(errors[1]) < 0.6 * float(errors[0])


def test_nested_lines_are_int8_codes() -> None:
    one = OPERANDS["int4-nested nested g32"]
    q, scale, minimum, outer = one.quantize(torch.randn(40, 256) * torch.rand(40, 1))
    codes = q.reshape(40, -1, 32).int() * scale.unsqueeze(-1).int() + minimum.unsqueeze(-1).int()
    assert int(codes.abs().max()) <= 127
    assert torch.equal(one.dequantize((q, scale, minimum, outer)), codes.reshape(40, 256).float() * outer)


@pytest.mark.parametrize("arguments", [{"e": 9, "m": 1}, {"e": 0, "m": 0}, {"e": 8, "m": 8}, {"e": -1, "m": 3}, {"e": 3, "m": -1}])
def test_sizes_that_are_none(arguments: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match="expected e from 0 to 8 and 2 to 16 bits"):
        L.quantize_exmy(torch.randn(2, 64), *arguments.values(), 32)


@pytest.mark.parametrize("dtype", operands.DTYPES)
def test_what_was_trained_ternary_is_kept(dtype: torch.dtype) -> None:
    """Scales of several shards, along N and along K: each row or group has one magnitude, and is found again to the bit."""
    codes = torch.randint(-1, 2, (48, 256))
    for one, scale in [
        (OPERANDS["ternary"], torch.tensor([0.013, 0.0271, 3e-6]).repeat_interleave(16).unsqueeze(1)),
        (OPERANDS["ternary-groups g64"], torch.tensor([0.011, 0.5]).repeat_interleave(128)),
    ]:
        weight = (codes * scale).to(dtype)
        assert torch.equal(one.quantize(weight)[0], codes.to(torch.int8))
        assert torch.equal(back(one, weight, dtype), weight)
