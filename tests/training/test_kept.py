"""What training keeps for the backward pass: codes of an input once for all linears of it, and no codes of weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.compiled import compiled
from helpers.training import Model, equal, gradients, ops_called
from lowbit_compiler.runtime.training.integers import Integers

WIDTH = 32
RECIPES = ["int8-training", "int4-training"]


class Gated(nn.Module):
    """Two linears of one input, as gate and up, and one of another."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.sigmoid(self.gate(x)) * self.up(x))


def model_of(checkpointed: bool) -> nn.Module:
    torch.manual_seed(0)
    model = Model(checkpointed=checkpointed, width=WIDTH)
    model.blocks = nn.ModuleList(Gated() for _ in range(2))
    return model


@pytest.mark.parametrize(("recipe", "checkpointed"), list(zip(RECIPES, (False, True), strict=True)))
def test_linears_of_one_input_share_its_codes(recipe: str, checkpointed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(checkpointed)
    run = compiled(model, recipe, remainder="eager")
    shared = gradients(model, run)
    if not checkpointed:
        assert ops_called(lambda: gradients(model, run))["train_quantize"] == 2 * (2 + 3) + 2 * 3  # inputs, weights; weights for dX
    monkeypatch.setattr(Integers, "quantizer", None)
    torch.compiler.reset()
    assert equal(gradients(model, compiled(model, recipe, remainder="eager")), shared)


def test_an_input_that_is_written_to_has_other_codes() -> None:
    first, second, x = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), torch.randn(4, WIDTH)

    def run(x: Tensor) -> Tensor:
        x = x.clone()
        y = first(x)
        x.mul_(100)
        return torch.cat([y, second(x)])

    got = compiled(run, RECIPES[0], remainder="eager")(x)
    assert (got - run(x)).norm() < 0.05 * run(x).norm()


def kept(run: nn.Module, x: Tensor) -> list[Tensor]:
    """What autograd keeps that is no parameter."""
    found: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run(x)
    return [tensor for tensor in found.values() if not isinstance(tensor, nn.Parameter)]


@pytest.mark.parametrize(("recipe", "width"), [("int8-training", WIDTH), ("int4-training", 64 // 2)])  # rotated in whole blocks of 64
def test_codes_of_inputs_are_all_that_is_kept_of_linears(recipe: str, width: int) -> None:
    """Once for gate and up; Inductor keeps what gate and up are multiplied for."""
    torch.manual_seed(0)
    x = torch.randn(64, WIDTH, requires_grad=True)
    codes = [each for each in kept(compiled(Gated(), recipe), x) if each.dtype in (torch.int8, torch.uint8)]
    assert [tuple(each.shape) for each in codes] == [(64, width)] * 2


def test_codes_belong_to_recipes_that_share_them() -> None:
    x, w = torch.ones(2, WIDTH), torch.ones(16, WIDTH)
    codes = list(torch.ops.lowbit.train_quantize(x, 4, False))
    with pytest.raises(RuntimeError, match=r"codes and scales that the recipe's quantizer made, or nothing, as shared, got 2"):
        torch.ops.lowbit.train_linear(x, w, None, torch.tensor([0]), 0, "mxfp4-training", None, None, None, codes)


@pytest.mark.parametrize(
    ("of", "bits", "change", "message"),
    [
        ((3, WIDTH), 8, lambda codes: codes, r"shared of 2 rows, as x has, got 3"),
        ((2, WIDTH + 1), 8, lambda codes: codes, r"shared\[0\] in int8 of shape \(2, 32\)"),
        ((2, WIDTH), 4, lambda codes: codes, r"shared\[0\] in int8 of shape \(2, 32\)"),
        ((2, WIDTH), 8, lambda codes: [codes[0], codes[1].double()], r"shared\[1\] in float32 of shape \(2, 1\)"),
    ],
)
def test_codes_of_another_input_are_refused(of: tuple[int, int], bits: int, change: Callable[..., Any], message: str) -> None:
    x, w = torch.ones(2, WIDTH), torch.ones(16, WIDTH)
    codes = change(list(torch.ops.lowbit.train_quantize(torch.ones(of), bits, False)))
    with pytest.raises(RuntimeError, match=message):
        torch.ops.lowbit.train_linear(x, w, None, torch.tensor([0]), 0, RECIPES[0], None, None, None, codes)


def test_op_with_shared_codes() -> None:
    """Its compiled gradients are those of the test above."""
    op = torch.ops.lowbit.train_linear.default
    x, w = torch.randn(5, WIDTH, requires_grad=True), torch.randn(16, WIDTH, requires_grad=True)
    codes = list(torch.ops.lowbit.train_quantize(x.detach(), 8, False))
    arguments = (x, w, None, torch.tensor([3]), 0, RECIPES[0], None, None, None, codes)
    torch.library.opcheck(op, arguments, test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))
