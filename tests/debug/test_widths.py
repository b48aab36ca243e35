"""Bits for each layer: what is chosen meets its budget through torch.compile, and is what the recipe's file says when it is read again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import zoo
from helpers.compiled import reports_of
from helpers.forks import lowbit
from lowbit_compiler.debug import widths
from lowbit_compiler.errors import DebugError, OptionError
from lowbit_compiler.recipes import WIDTHS, Recipe, find_recipe
from lowbit_compiler.runtime.formats import operand
from lowbit_compiler.runtime.products import Plan

SOME = ("int3", "int5", "int8")
MODEL = """
import torch

torch.manual_seed(0)

def model():
    layers = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(4)))
    return layers.eval(), (torch.randn(40, 64),)
"""


def four() -> tuple[nn.Module, Tensor]:
    """Four layers, of which the output hardly depends on the second."""

    class Four(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            a, b, c, d = (layer(x) for layer in self.layers)
            return a + 1e-3 * b + c * torch.sigmoid(d)

    return Four().eval(), torch.randn(50, 64)


def error(model: nn.Module, x: Tensor, recipe: Any) -> float:
    torch._dynamo.reset()
    low = torch.compile(model, backend="lowbit", options={"recipe": recipe, "plan": "always", "remainder": "eager"})
    with torch.no_grad():
        wanted = model(x)
        return float((low(x) - wanted).norm() / wanted.norm())


def test_a_budget_is_met_at_fewer_bytes_than_one_width_for_all(tmp_path: Path) -> None:
    model, x = four()
    result = widths(model, (x,), budget=0.04, metric="error", words=SOME)
    assert result.met
    file = tmp_path / "mixed.toml"
    file.write_text(result.to_toml())
    assert find_recipe(str(file)) == result.recipe
    assert error(model, x, file) == pytest.approx(result.reached, rel=1e-5)
    assert result.chosen["layers.1"].word == "int3"
    assert len({each.word for each in result.chosen.values()}) > 1
    bits = {word: operand(word, 32) for word in SOME}
    assert result.nbytes == sum(64 * bits[each.word].row_bytes(64) for each in result.chosen.values())
    enough = [word for word in SOME if error(model, x, Recipe("one", word, "float", group_size=32)) <= 0.04]
    assert result.nbytes < 4 * 64 * min(bits[word].row_bytes(64) for word in enough)


def test_the_same_again() -> None:
    model, x = four()
    first, second = (widths(model, [(x,), (x[:7],)], budget=0.05, metric="error", words=SOME) for _ in range(2))
    assert first == second


def test_bytes_for_all() -> None:
    """The least loss that was found within them; too few for the fewest bits are said so."""
    model, x = four()
    sizes = [64 * 4 * operand(word, 32).row_bytes(64) for word in SOME]
    found = [widths(model, (x,), most_bytes=most, metric="error", words=SOME) for most in (sizes[0] - 1, sizes[1], sizes[2])]
    assert [each.met for each in found] == [False, True, True]
    assert found[1].nbytes <= sizes[1]
    assert found[0].reached > found[1].reached > found[2].reached
    assert "are not enough" in str(found[0])


def test_a_language_model() -> None:
    """In nats of its logits; the report of the compiled model has what was chosen."""
    model, inputs = zoo.causal("Llama")()
    result = widths(model, inputs, budget=2e-5, words=("int3", "int8"))
    assert result.met
    _, reports = reports_of(lambda: error_of_logits(model, inputs, result.recipe))
    said = {site.module: site.lowered_to for site in reports[0].sites if site.kind == "linear" and site.decision != "declined"}
    for name, each in result.chosen.items():
        assert said[name] == f"lowbit::{Plan(None, operand(each.word, 32)).op}"


def error_of_logits(model: nn.Module, inputs: dict[str, Any], recipe: Recipe) -> None:
    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(model, backend="lowbit", options={"recipe": recipe, "plan": "always", "remainder": "eager"})(**inputs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "one of them, got budget=None and bytes=None"),
        ({"budget": 0.1, "most_bytes": 100}, "one of them, got budget=0.1 and bytes=100"),
        ({"budget": -1.0}, "budget takes a finite number above 0, got -1.0"),
        ({"most_bytes": 0}, "bytes takes a finite number above 0, got 0"),
        ({"budget": 0.1, "metric": "mse"}, "metric takes one of kl, error, got 'mse'"),
        ({"budget": 0.1, "recipe": "int9"}, "unknown recipe 'int9'"),
        ({"budget": 0.1, "recipe": "int8"}, "weights need activations='float'"),
        ({"budget": 0.1, "ignore": ["re:."]}, "there is nothing to choose"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], message: str) -> None:
    model, x = four()
    with pytest.raises(OptionError, match=message):
        widths(model, (x,), words=SOME, **changes)


def test_a_model_that_differs_from_run_to_run() -> None:
    calls = [0]

    def drifting(x: Tensor) -> Tensor:
        calls[0] += 1
        return x * calls[0]

    with pytest.raises(DebugError, match="other values when it is run again"):
        widths(drifting, (torch.randn(3, 64),), budget=0.1)


@pytest.mark.model
def test_the_command(tmp_path: Path) -> None:
    """It writes a recipe that other commands take; where the budget is missed it writes none, and the status is 1."""
    file, out = tmp_path / "my_model.py", tmp_path / "new" / "recipe.toml"
    file.write_text(MODEL)
    asked = ("debug", "widths", f"{file}:model", "--metric", "error", "--out", str(out))
    done = lowbit(*asked, "--budget", "3%")
    assert done.returncode == 0, done.stderr
    assert "4 layers: " in done.stdout
    assert set(find_recipe(out).words) | {find_recipe(out).weights} <= set(WIDTHS)
    again = lowbit("explain", f"{file}:model", "--recipe", str(out), "--plan", "always")
    assert again.returncode == 0, again.stderr
    out.unlink()
    missed = lowbit(*asked, "--bytes", "1kB")
    assert missed.returncode == 1, missed.stderr
    assert not out.exists()
    for arguments in (
        (),
        ("--budget", "many"),
        ("--bytes", "0"),
        ("--budget", "0.1", "--metric", "x"),
        ("--budget", "0.1", "--out", "x.json"),
    ):
        wrong = lowbit(*asked, *arguments)
        assert wrong.returncode == 2
        assert len(wrong.stderr.strip().splitlines()) == 1
