"""Numbers with fewer significant bits: those of torch's own formats, and drawn without bias."""

import pytest
import torch

from lowbit_compiler.runtime.training.plans import plan_of
from lowbit_compiler.runtime.training.significands import Significands


def rounded(x: torch.Tensor, s: int, noise: torch.Tensor | None = None) -> torch.Tensor:
    grid = Significands(s)
    return grid.decode(grid.encode(x, noise))


def test_rounding_to_nearest_is_ieee() -> None:
    torch.manual_seed(0)
    x = torch.cat(
        [torch.randn(4096) * torch.exp(4 * torch.randn(4096)), 1 + torch.arange(512) / 256, -torch.arange(64) * 2.0**-8]
    )  # with ties
    assert torch.equal(rounded(x, 7), x.bfloat16().float())
    half = x[(x.abs() < 2.0**15) & (x.abs() > 2.0**-14)]
    assert torch.equal(rounded(half, 10), half.half().float())
    assert torch.equal(rounded(x, 23), x)


def test_drawn_numbers_are_neighbours_and_right_in_the_mean() -> None:
    x = torch.tensor([1.0 + 2.0**-12, -3.7, 1e-30, 5.0])
    noise = (torch.arange(4096) + 0.5).unsqueeze(1).expand(-1, 4) / 4096
    got = rounded(x.expand(4096, 4), 3, noise)
    exact = rounded(x, 3)
    assert (got.double().mean(0) - x).abs().div(x.abs()).max() < 2.0**-12
    assert all(len(column.unique()) <= 2 for column in got.t())
    assert (got[:, 3] == exact[3]).all()  # a number of the grid stays


def test_what_stagnates_to_nearest_grows_at_random() -> None:
    torch.manual_seed(0)
    step, near, drawn = 2.0**-9, torch.ones(256), torch.ones(256)
    for _ in range(128):
        near, drawn = rounded(near + step, 7), rounded(drawn + step, 7, torch.rand(256))
    assert (near == 1).all()
    assert abs(drawn.mean() - (1 + 128 * step)) < 0.02


@pytest.mark.parametrize("name", ["sbits-training(0)", "sbits-training(24)", "sbits-training(x)"])
def test_bad_names(name: str) -> None:
    assert plan_of(name) is None
