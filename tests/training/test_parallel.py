"""Data-parallel training: two processes average the gradients of their own noise, and stay equal."""

from pathlib import Path

import pytest
import torch

from helpers import ranks
from helpers.compiled import compiled
from helpers.training import learner, text, train

NOISY = ("int8-training", "int4-training-paper")
EXACT = "ternary-training"
"""Its backward products are float ones: nothing is drawn, so that two processes and one differ by roundings alone."""


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes(kind: str, tmp_path: Path) -> None:
    first, second = ranks.run("helpers.data_parallel:learned", tmp_path, kind, *NOISY, EXACT)
    for recipe in (*NOISY, EXACT):
        losses, sums, rows = first[recipe]
        assert (losses, sums) == second[recipe][:2]  # the parameters, though each process drew its own noise
        rewritten = {module for module, op, decision in rows if decision == "rewritten" and op == "linear dW"}
        assert rewritten
        assert all(name.startswith("blocks.") for name in rewritten)
        assert (
            kind == "fsdp" or ("head", "linear", "declined") in rows
        )  # FSDP2's hooks are run by Python, and what is beside the blocks too
        model = learner(recipe)
        want = train(model, compiled(model, recipe), text(4))
        same = len(want) if recipe == EXACT else 1  # the first loss is that of rows which are quantized alone
        torch.testing.assert_close(losses[:same], want[:same], rtol=1e-5, atol=0)
        torch.testing.assert_close(losses, want, rtol=0.02 if recipe == NOISY[0] else 0.1, atol=0)
