"""FSDP2: float weights that are gathered at each call stay in float, with the reason; ``gather_packed`` lets them be gathered in low bits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import parallel_llama, ranks
from helpers.compiled import compiled
from helpers.fully_sharded import RECIPES, odd
from helpers.parallel_llama import BY_COLUMNS, BY_ROWS
from helpers.tensor_parallel import apart, block, rows
from helpers.training import LINEARS, learner
from lowbit_compiler.recipes import find_recipe
from lowbit_compiler.runtime.packing import PANEL

REASON = "a sharded weight (FSDP2) is gathered at each call, and would be packed each time; see gather_packed"
QUANTIZED = "scales are each process's own: its weight was quantized before it was gathered"
TRAINING, STEPS = ("int8-training", "int4-training"), 4


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


def test_weights_are_gathered_packed(tmp_path: Path) -> None:
    found = ranks.run("helpers.fully_sharded:packed", tmp_path)
    for recipe in RECIPES:
        want = one_process(recipe)
        for each in (one[recipe] for one in found):
            assert all(torch.equal(result, want) for result in each["results"])
            assert each["quantized"] == 5  # once, though there were two calls
            assert each["computed"] == 3  # the ragged weight, as it was compiled and twice
            assert {module for module, decision, *_ in each["sites"] if decision == "rewritten"} >= {"0.up", "0.down", "2.ragged"}
            assert ("2.uneven", "declined", "no constant operand", REASON) in each["sites"]
    for each in found:
        assert torch.equal(each["whole"], odd()[0].up.weight)
        for name, changes, count in (("written", [written], 1), ("unseen", [written, unseen], 2)):
            result, quantized = each[name]
            assert torch.equal(result, one_process(RECIPES[-1], *changes))
            assert quantized == count
        assert each["ignored"] == 3
        assert each["freed"]["held"] == 0
        assert all(torch.equal(result, each[RECIPES[0]]["results"][0]) for result in each["freed"]["results"])
        assert {site[1:] for site in each["meshes"]["float"]} == {("declined", "no constant operand", REASON)}
        up, down = each["meshes"]["codes"]
        assert (up[1], *down[1::2]) == ("rewritten", "rewritten", QUANTIZED)
    _assigned(found)


def _assigned(found: list[Any]) -> None:
    model = nn.Sequential(block(), block())
    model[0].up.weight.copy_(found[0]["assigned"]["weight"])
    torch.compiler.reset()
    with torch.no_grad():
        want = compiled(model)(rows())
    assert all(torch.equal(each["assigned"]["result"], want) for each in found)


def test_training_gathers_codes(tmp_path: Path) -> None:
    first, second = ranks.run("helpers.fully_sharded:learned", tmp_path, *TRAINING)
    for recipe in TRAINING:
        for each in (first, second):
            low, plain = each[recipe, True], each[recipe, False]
            assert low["losses"] == plain["losses"]
            assert all(map(torch.equal, low["weights"], plain["weights"]))
            assert low["quantized"] == LINEARS * STEPS  # once a step, though forward and backward pass both gather
            assert plain["sent"] - low["sent"] == 2 * STEPS * _saved(recipe)
        seeds = list(zip(first[recipe, True]["seeds"], second[recipe, True]["seeds"], strict=True))
        assert len(seeds) >= STEPS
        assert {b - a for a, b in seeds} == {1}  # though both were seeded alike


def _saved(recipe: str) -> int:
    """Return the bytes that codes and scales of one of two processes take less than its floats."""
    weights = [each.weight.chunk(2)[0] for block in learner(recipe).blocks for each in (block.up, block.down)]
    quantize = torch.ops.lowbit.train_quantize
    arguments = (8, False) if recipe == TRAINING[0] else (4, True)
    return sum(weight.nbytes - sum(part.nbytes for part in quantize(weight, *arguments)) for weight in weights)


@pytest.mark.model
def test_two_layers_of_llama(tmp_path: Path) -> None:
    (folder := tmp_path / "llama").mkdir()
    parallel_llama.save(folder)
    found = ranks.run("helpers.fully_sharded:llama", tmp_path, str(folder))
    linears = [each.weight for name, each in parallel_llama.load(folder).named_modules() if name in (*BY_ROWS, *BY_COLUMNS)]
    for recipe in RECIPES:
        torch.compiler.reset()
        with torch.no_grad(), apart():
            want = parallel_llama.logits(compiled(parallel_llama.load(folder), recipe, ignore=[parallel_llama.HEAD]))
        plan = find_recipe(recipe).plan
        packed = sum(len(w) // (2 * PANEL) * plan.w.panel_bytes(plan.treatment.padded(w.shape[1])) for w in linears)
        for each in found:
            result, sent = each[recipe]
            assert torch.equal(result, want)
            assert sent == each[""][1] - sum(w.nbytes // 2 for w in linears) + packed
