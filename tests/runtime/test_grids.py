"""Grids of small floats against their definition in exact fractions, and against ml_dtypes; the arithmetic of exponents on every binade."""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.exmy import ExMy
from lowbit_compiler.runtime.formats.fp4 import FP4
from lowbit_compiler.runtime.formats.grid import Floats, Integers
from lowbit_compiler.runtime.formats.scales import E4M3

L = torch.ops.lowbit
E2M1 = FP4().grid
SIZES = [(0, 1), (0, 3), (0, 7), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (3, 0), (3, 2), (3, 4), (4, 3), (5, 2), (5, 5), (7, 2), (8, 7)]


def numbers(e: int, m: int, top: int) -> list[Fraction]:
    """Return the magnitudes of an IEEE-like float without special codes, in the order of its bits (arXiv 2501.02423, section 3)."""
    lowest = top - (2**e - 2)  # the exponent of field 1; field 0 has the same without the leading one
    found = []
    for bits in range(2 ** (e + m)):
        field, mantissa = bits >> m, Fraction(bits & (2**m - 1), 2**m)
        found.append((mantissa + (field > 0)) * Fraction(2) ** (lowest + max(field - 1, 0)))
    return found


def codes_of(grid: Floats) -> Tensor:
    least, most = grid.codes
    return torch.arange(least, most + 1).to(grid.dtype)


def bracket(table: list[float], v: float) -> tuple[int, int]:
    """Return the codes at and above the largest number that is not above ``v``."""
    below = int(np.searchsorted(table, v, side="right")) - 1
    return below, min(below + 1, len(table) - 1)


def nearest(table: list[float], v: float) -> int:
    """Return the code of the number nearest to ``v`` >= 0, the even one of two; compared exactly."""
    low, high = bracket(table, v)
    down, up = Fraction(v) - Fraction(table[low]), Fraction(table[high]) - Fraction(v)
    return low if down < up or (down == up and low % 2 == 0) else high


def test_e2m1() -> None:
    assert E2M1.decode(torch.arange(8, dtype=torch.int8)).tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert E2M1.decode(-torch.arange(8, dtype=torch.int8)).tolist() == [0, -0.5, -1, -1.5, -2, -3, -4, -6]
    assert (E2M1.largest, E2M1.gap, E2M1.bits, E2M1.codes) == (6.0, 2.0, 4, (-7, 7))


def test_midpoints_go_to_the_even_code() -> None:
    middles = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.5, 7.0, 1e30, torch.finfo(torch.float32).max])
    wanted = [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 6.0, 6.0, 6.0, 6.0]
    assert E2M1.decode(E2M1.encode(middles)).tolist() == wanted
    assert E2M1.decode(E2M1.encode(-middles)).tolist() == [-value for value in wanted]
    above, below = (torch.nextafter(middles[:7], torch.full((7,), end)) for end in (torch.inf, 0.0))
    assert E2M1.decode(E2M1.encode(above)).tolist() == [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    assert E2M1.decode(E2M1.encode(below)).tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(("e", "m"), SIZES)
def test_every_code(e: int, m: int) -> None:
    """Decoded as defined, rising, and encoded to itself; with eight exponent bits what float32 holds as subnormal alone is zero."""
    grid = ExMy(e, m).grid
    exact = [number if number >= Fraction(1, 2**126) or e < 8 else Fraction(0) for number in numbers(e, m, 0)]
    codes = codes_of(grid)
    values = grid.decode(codes)
    half = len(exact) - 1
    assert [Fraction(value) for value in values.tolist()] == [*(-number for number in exact[:0:-1]), *exact]
    assert len(codes) == 2 * half + 1
    assert Fraction(grid.largest) == max(exact)
    kept = (values != 0) | (codes == 0)
    assert torch.equal(grid.encode(values[kept]), codes[kept])
    assert bool((values.diff() >= 0).all())
    assert bool((values[kept].diff() > 0).all())
    assert values[kept].diff().max() == (grid.gap / 2 if m == 0 and e > 1 else grid.gap)


@pytest.mark.parametrize(("e", "m"), [size for size in SIZES if size != (0, 1)])
def test_largest_number_in_the_usual_spelling(e: int, m: int) -> None:
    """FP_max = 2^(2^E - 1 - bias) (2 - 2^-M) with all exponents used for numbers; without exponent bits a fixed point."""
    top = 2**e - 1 - (2 ** (e - 1) - 1) if e else 0
    if top > 127:
        pytest.skip("beyond float32")
    grid = Floats(e, m, top)
    wanted = 2.0**top * (2 - 2.0**-m) if e else 2.0 * (1 - 2.0**-m)
    assert grid.largest == wanted
    assert grid.decode(torch.tensor([grid.codes[1]], dtype=grid.dtype)).item() == wanted
    if e == 0:
        assert grid.decode(codes_of(grid)).tolist() == [code * 2.0 ** (1 - m) for code in range(grid.codes[0], grid.codes[1] + 1)]


@pytest.mark.parametrize(("e", "m"), [size for size in SIZES if size[1]])
def test_nearest_with_ties_to_even(e: int, m: int) -> None:
    """At random numbers, at midpoints and beside them, against a search in the table."""
    grid = ExMy(e, m).grid
    table = grid.decode(torch.arange(grid.codes[1] + 1).to(grid.dtype)).double()
    some = torch.randperm(len(table) - 1, generator=torch.Generator().manual_seed(1))[:60]
    middles = ((table[some] + table[some + 1]) / 2).float()
    middles = middles[middles >= 2.0**-120]
    ends = [torch.nextafter(middles, torch.full_like(middles, end)) for end in (torch.inf, 0.0)]
    spread = grid.largest * torch.rand(100) * 2.0 ** -torch.randint(0, 2 ** min(e, 6) + m, (100,))
    for v in (middles, *ends, spread):
        got = grid.encode(v).tolist()
        assert got == [nearest(table.tolist(), value) for value in v.tolist()]
        assert grid.encode(-v).tolist() == [-code for code in got]


@pytest.mark.parametrize("e", [1, 2, 3, 5])
def test_without_mantissa_ties_go_away_from_zero(e: int) -> None:
    grid = ExMy(e, 0).grid
    numbers = grid.decode(torch.arange(1, grid.codes[1] + 1, dtype=grid.dtype))
    assert torch.equal(grid.decode(grid.encode(numbers[:-1] * 1.5)), numbers[1:])
    assert torch.equal(grid.decode(grid.encode(numbers[:-1] * 1.4999)), numbers[:-1])


@pytest.mark.parametrize(("e", "m"), SIZES)
def test_saturation(e: int, m: int) -> None:
    grid = ExMy(e, m).grid
    v = torch.tensor([grid.largest * (1 + 2.0**-20), 2.0, 3.9, 4.0, 1e9, torch.finfo(torch.float32).max])
    most = grid.codes[1]
    assert grid.encode(v).tolist() == [most] * 6
    assert grid.encode(-v).tolist() == [-most] * 6


@pytest.mark.parametrize(
    ("grid", "dtype", "most"),
    [
        (E2M1, ml_dtypes.float4_e2m1fn, 6.0),
        (E4M3, ml_dtypes.float8_e4m3fn, 448.0),  # its last code is NaN there
        (Floats(5, 2, 16), ml_dtypes.float8_e5m2, 57344.0),  # its last binade is Inf and NaN there
        (Floats(3, 2, 4), ml_dtypes.float6_e3m2fn, 28.0),
        (Floats(2, 3, 2), ml_dtypes.float6_e2m3fn, 7.5),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_ml_dtypes(grid: Floats, dtype: type, most: float) -> None:
    """The same numbers in the same order, and the same rounding of float32 up to the largest finite one."""
    bits = np.arange(2 ** (grid.bits - 1), dtype=np.uint8)
    theirs = bits.view(dtype).astype(np.float64)
    finite = np.isfinite(theirs)
    ours = grid.decode(torch.from_numpy(bits.view(np.int8))).double().numpy()
    assert theirs[finite].max() == most
    assert np.array_equal(ours[finite], theirs[finite])
    v = (torch.rand(4000) * 2.0 ** -torch.randint(0, 8, (4000,)) * most).float()
    rounded = v.numpy().astype(dtype).astype(np.float32)
    assert np.array_equal(grid.decode(grid.encode(v)).numpy(), rounded)
    assert np.array_equal(grid.decode(grid.encode(-v)).numpy(), -rounded)


@pytest.mark.parametrize("grid", [Integers(-127, 127), Integers(-7, 7), Integers(0, 15)])
def test_integers(grid: Integers) -> None:
    codes = torch.arange(grid.least, grid.most + 1).to(grid.dtype)
    assert torch.equal(grid.encode(grid.decode(codes)), codes)
    assert grid.encode(torch.tensor([grid.least - 9.0, 0.5, 1.5, 2.5, grid.most + 0.5])).tolist() == [grid.least, 0, 2, 2, grid.most]
    assert 2**grid.bits >= len(codes) > 2 ** (grid.bits - 1)


def test_exponents_of_every_binade() -> None:
    """floor(log2) of the ends of each; below the normal numbers -127, for zero too."""
    for k in range(-126, 128):
        ends = torch.tensor([2.0**k, 2.0**k * 1.5, 2.0**k * (2 - 2.0**-23)])
        assert L.exponent(ends).tolist() == [k] * 3
        assert [math.frexp(end)[1] - 1 for end in ends.tolist()] == [k] * 3
    assert L.exponent(torch.tensor([0.0, 2.0**-149, 2.0**-127, 2.0**-126 * (1 - 2.0**-23)])).tolist() == [-127.0] * 4


def test_powers_of_every_exponent() -> None:
    k = torch.arange(-126, 128)
    assert L.power(k.float()).tolist() == [2.0**each for each in k.tolist()]
    assert L.power(torch.tensor([-127.0, -128.0, -149.0, -300.0])).tolist() == [0.0] * 4
