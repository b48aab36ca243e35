"""FSDP2: float weights that are gathered at each call stay in float, with the reason; ``gather_packed`` lets them be gathered in low bits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import parallel_llama, ranks
from helpers.compiled import compiled
from helpers.fully_sharded import RECIPES, odd
from helpers.tensor_parallel import apart, block, rows

REASON = "a sharded weight (FSDP2) is gathered at each call, and would be packed each time; see gather_packed"


def test_gathered_weights_are_declined(tmp_path: Path) -> None:
    with torch.no_grad():
        want = nn.Sequential(block(), block())(rows())
    for each in ranks.run("helpers.fully_sharded:answers", tmp_path):
        assert each["packed"] == 0
        assert set(each["sites"]) == {("declined", "no constant operand", REASON)}
        assert len(each["sites"]) >= 2
        for result in each["results"]:
            torch.testing.assert_close(result, want, rtol=1e-5, atol=1e-5)


def one_process(recipe: str, *changes: Any) -> Tensor:
    """Return what the model of two processes gives in one, after ``changes``."""
    model = odd()
    torch.compiler.reset()
    run = compiled(model, recipe, ignore=["2.uneven"])
    with torch.no_grad():
        for change in changes:
            change(model)
        result: Tensor = run(rows())
    return result


def written(model: Any) -> None:
    model[0].up.weight[:, 40:41].add_(1.0)


def unseen(model: Any) -> None:
    model[1].down.weight.mul_(-0.5)


@pytest.mark.parametrize("recipe", ["int8-training", "int4-training"])
def test_training_gathers_codes(tmp_path: Path, recipe: str) -> None:
    for each in ranks.run("helpers.fully_sharded:learned", tmp_path, recipe):
        low, plain = each[recipe, True], each[recipe, False]
        assert low["losses"] == plain["losses"]
        assert all(map(torch.equal, low["weights"], plain["weights"]))
        print(low["sent"], plain["sent"], low["quantized"], low["losses"])


def test_weights_are_gathered_packed(tmp_path: Path) -> None:
    first, second = ranks.run("helpers.fully_sharded:packed", tmp_path)
    for recipe in RECIPES:
        want = one_process(recipe)
        for each in (first, second):
            for result in each[recipe]["results"]:
                torch.testing.assert_close(result, want, rtol=0, atol=0)
            assert each[recipe]["quantized"] == 5  # once, though there were two calls
            assert each[recipe]["computed"] == 3  # the ragged weight, as it was compiled and twice
            assert {module for module, decision, *_ in each[recipe]["sites"] if decision == "rewritten"} >= {"0.up", "0.down", "2.ragged"}
            assert ("2.uneven", "declined", "no constant operand", REASON) in each[recipe]["sites"]
    for each in (first, second):
        assert torch.equal(each["whole"], odd()[0].up.weight)
        for name, changes, count in (("written", [written], 1), ("unseen", [written, unseen], 2)):
            result, quantized = each[name]
            assert torch.equal(result, one_process(RECIPES[-1], *changes))
            assert quantized == count
        assert each["freed"]["held"] == 0
        assert all(torch.equal(result, each[RECIPES[0]]["results"][0]) for result in each["freed"]["results"])
