"""What stands around the steps: which half of the weights learns, and projections after each step."""

import pytest
import torch
from torch import nn

import lowbit_compiler as lowbit
from helpers.compiled import compiled, reports_of
from helpers.training import Model, gradients, text
from lowbit_compiler.errors import OptionError
from lowbit_compiler.runtime.training.plans import LEARNING


def test_half_of_each_category_learns() -> None:
    model = Model()
    model.head.requires_grad_(False)
    frozen = lowbit.half_fine_tuning(model, seed=1)
    assert sorted(name.rpartition(".")[2] for name in frozen) == ["down", "up"]
    got, (report,) = reports_of(lambda: gradients(model, compiled(model, "int8-training")))
    assert {f"{name}.weight" for name in frozen}.isdisjoint(got)
    assert {site.module for site in report.declined if site.op == "linear dW"} == set(frozen)
    rounds = {tuple(lowbit.half_fine_tuning(model, seed=seed)) for seed in range(8)}
    assert {name for names in rounds for name in names} == {f"blocks.{i}.{part}" for i in range(2) for part in ("up", "down")}
    assert not model.head.weight.requires_grad  # the user's own


def test_a_frozen_weight_has_a_frozen_step() -> None:
    model = lowbit.prepare_training(Model(), LEARNING[0], [text()])
    model.blocks[0].up.lowbit_w_step.requires_grad_(False)  # the user's own, which no round thaws
    rounds = {tuple(lowbit.half_fine_tuning(model, seed=seed)): seed for seed in range(4)}
    for frozen, seed in rounds.items():
        lowbit.half_fine_tuning(model, seed=seed)
        got, (report,) = reports_of(lambda: gradients(model, compiled(model, LEARNING[0], remainder="eager")))
        still = {name for name, _ in model.named_parameters() if name not in got}
        assert still == {f"{name}.{part}" for name in frozen for part in ("weight", "lowbit_w_step")} | {"blocks.0.up.lowbit_w_step"}
        assert {site.module for site in report.declined if site.op == "linear dW"} == set(frozen)
    assert len(rounds) > 1


def test_categories_by_patterns() -> None:
    model = Model()
    assert len(lowbit.half_fine_tuning(model, {"blocks": ["blocks"]})) == 2
    with pytest.raises(OptionError, match="category 'all' names no linear"):
        lowbit.half_fine_tuning(model, {"all": ["nothing"]})


def singular(weight: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(weight.detach().double())


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
@pytest.mark.parametrize("projection", ["keep-norm", "normalize", "hammer", "cap"])
def test_projections(projection: str, shape: tuple[int, int]) -> None:
    left, right = (torch.linalg.qr(torch.randn(size, 24))[0] for size in shape)
    values = torch.linspace(3.0, 0.1, 24)
    values[0] = 6.0  # far from the next, as a few power iterations need it
    weight = nn.Parameter(left @ torch.diag(values) @ right.t())
    optimizer = torch.optim.SGD([weight], 0.0)
    handle = lowbit.project(optimizer, projection, most=1.5)
    weight.grad = torch.ones_like(weight)
    if projection == "keep-norm":
        with torch.no_grad():
            weight.mul_(7)
    optimizer.step()
    want = {
        "keep-norm": 1.5 * values,
        "normalize": values / 4,
        "hammer": torch.cat([values[1:], torch.tensor([1.5])]).sort(descending=True).values,
        "cap": values.clamp(max=1.5),
    }[projection].double()
    assert (singular(weight) - want).abs().max() < 2e-3
    handle.remove()
    before = weight.detach().clone()
    optimizer.step()
    assert torch.equal(weight, before)


def test_bad_projections() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2, 2))], 0.1)
    with pytest.raises(OptionError, match="got 'nail'"):
        lowbit.project(optimizer, "nail")
    with pytest.raises(OptionError, match="above 0, got 0"):
        lowbit.project(optimizer, "cap", most=0)
