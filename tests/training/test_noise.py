"""Noise: the numbers of the document, the same for any width, uniform, and of its own for each reader."""

import torch

from lowbit_compiler.runtime.rounding import whole
from lowbit_compiler.runtime.training.noise import Stream

MASK = 0xFFFFFFFF
SEED = 5 * 2**40 + 3**20


def mixed(h: int) -> int:
    """As docs/arithmetic.md has it, in Python's integers."""
    h = ((h ^ (h >> 16)) * 0x7FEB352D) & MASK
    h = ((h ^ (h >> 15)) * 0x846CA68B) & MASK
    return h ^ (h >> 16)


def number(row: int, column: int, *numbers: int) -> float:
    """The number of one element."""
    key = mixed((mixed(SEED & 0x7FFFFFFF) + (SEED >> 31)) & MASK)
    for each in numbers:
        key = mixed((key + each) & MASK)
    line = mixed((key + row * 0x9E3779B9) & MASK)
    word = mixed((line + (column // 32 * 16 + column % 16) * 0x9E3779B9) & MASK)
    return ((word >> (16 * (column // 16 % 2)) & 0xFFFF) + 0.5) / 65536


def test_numbers_are_those_of_the_document() -> None:
    got = Stream.of(torch.tensor([SEED]), 3, 1, 2).uniform(3, 70)
    assert got.tolist() == [[number(row, column, 3, 1, 2) for column in range(70)] for row in range(3)]
    assert torch.equal(Stream.of(torch.tensor([SEED]), 3, 1, 2).uniform(2, 33), got[:2, :33])


def test_uniform_and_independent() -> None:
    seed = torch.tensor([11])
    u = torch.stack([Stream.of(seed, site, product, 0).uniform(200, 500).flatten() for site in range(3) for product in range(2)]).double()
    n = u.shape[1]
    assert ((u.mean(1) - 0.5).abs() < 5 * (1 / 12 / n) ** 0.5).all()
    assert ((u.var(1) - 1 / 12).abs() < 5 * (1 / 180 / n) ** 0.5).all()
    others = torch.corrcoef(torch.cat([u, u[:1].roll(1, 1), u[:1].roll(500, 1)])).fill_diagonal_(0)
    assert others.abs().max() < 5 / n**0.5


def test_rounding_has_the_right_mean() -> None:
    """Between codes of any size, and on codes: exactly."""
    v = torch.tensor([-126.7, -3.0, -0.25, 0.0, 2.0**-10, 0.5, 99.999, 127.0]).expand(40_000, 8)
    got = whole(v, Stream.of(torch.tensor([1])).uniform(40_000, 8)).double()
    fraction = (v[0] - v[0].floor()).double()
    bound = 5 * (fraction * (1 - fraction) / 40_000).sqrt() + 2.0**-17
    assert ((got.mean(0) - v[0].double()).abs() <= bound * (fraction > 0)).all()
