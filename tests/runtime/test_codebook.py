"""Formats of 16 chosen numbers: the tables against their sources, codes worked out by hand, and what the search for a scale gains."""

import math
from statistics import NormalDist

import pytest
import torch

from helpers.bounds import EPS
from helpers.formats import OPERANDS
from lowbit_compiler.runtime.formats import Operand
from lowbit_compiler.runtime.formats.codebook import IQ4, NF4, Codebook

NF, IQ = OPERANDS["nf4 g64"], OPERANDS["iq4 g32"]
both = pytest.mark.parametrize("one", [NF, IQ], ids=["nf4", "iq4"])


def test_normal_float_is_of_quantiles() -> None:
    """QLoRA, appendix E: 8 quantiles above 0 and 7 below, evenly spaced in probability from 1/2 to offset, over the largest."""
    offset = (1 - 1 / 32 + 1 - 1 / 30) / 2
    quantile = NormalDist().inv_cdf
    above = [quantile(0.5 + (offset - 0.5) * step / 8) for step in range(9)]
    below = [-quantile(0.5 + (offset - 0.5) * step / 7) for step in range(7, 0, -1)]
    wanted = [number / above[-1] for number in (*below, *above)]
    for ours, number in zip(NF4().grid.values, wanted, strict=True):
        assert math.isclose(ours, number, rel_tol=2e-4, abs_tol=1e-12)  # their quantiles are of float32 probabilities


@pytest.mark.parametrize("grid", [NF4().grid, IQ4().grid, Codebook((-1.0, 0.5, 3.0))], ids=["nf4", "iq4", "three"])
def test_codes_and_numbers(grid: Codebook) -> None:
    values = torch.tensor(grid.values)
    codes = torch.arange(len(values), dtype=torch.uint8)
    assert torch.equal(grid.decode(codes), values)
    assert torch.equal(grid.encode(values), codes)
    assert grid.encode(torch.tensor([-1e30, 1e30])).tolist() == [0, len(values) - 1]
    middles = ((values.double()[1:] + values.double()[:-1]) / 2).float()
    below, above = (torch.nextafter(middles, torch.full_like(middles, end * torch.inf)) for end in (-1, 1))
    assert torch.equal(grid.encode(below), codes[:-1])
    assert torch.equal(grid.encode(above), codes[1:])


def test_a_tie_gets_the_smaller_number() -> None:
    assert IQ4().grid.encode(torch.tensor([-4.5, 7.0, 101.0])).tolist() == [7, 8, 14]


@pytest.mark.parametrize("scale", [0.25, -3.0, 2.0**-90])
@both
def test_what_lies_on_the_codebook_is_found_again(one: Operand, scale: float) -> None:
    """With either sign of the scale; a codebook's numbers are rounded once with the scale, a least-squares scale to float16."""
    numbers = torch.tensor(one.format.grid.values).repeat(1, 4)
    codes, *stored = one.quantize(numbers * scale)
    assert codes.tolist() == [list(range(16)) * 4]
    assert torch.allclose(one.scale.unit(*stored), torch.full((1, 1), scale), rtol=4 * EPS)


@both
def test_the_search_beats_the_largest_magnitude(one: Operand) -> None:
    """Of N(0, 1): the scale that takes the largest magnitude to the largest number is what there is without it."""
    x = torch.randn(256, 256)
    blocks = x.reshape(256, -1, one.scale.block(256))
    grid = one.format.grid
    s = blocks.abs().amax(-1, keepdim=True) / grid.largest
    plain = (grid.decode(grid.encode(blocks / s)) * s).reshape(x.shape)
    found = one.dequantize(one.quantize(x))
    errors = [float((each - x).square().mean()) for each in (found, plain)]
    assert errors[0] < 0.85 * errors[1]
    per_group = [((each - x).reshape(blocks.shape).square().sum(-1)) for each in (found, plain)]
    assert bool((per_group[0] <= per_group[1] * 1.01).float().mean() > 0.95)


def test_less_error_than_evenly_spaced_numbers_of_as_many_bits() -> None:
    """At 4.5 bits of N(0, 1): the codebook in groups of 32, a line in groups of 64."""
    x = torch.randn(256, 512)
    errors = [float((one.dequantize(one.quantize(x)) - x).square().mean()) for one in (IQ, OPERANDS["int4 g64"])]
    assert errors[0] < errors[1]
