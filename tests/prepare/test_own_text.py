"""A language model writes its own calibration text."""

import copy
from pathlib import Path

import pytest
import torch

import lowbit_compiler as lowbit
from helpers.block import llama
from helpers.prepared import INT4, equal, parts_of
from lowbit_compiler.preparing.own_text import SEQUENCES, own_text


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return llama(hidden_size=64, intermediate_size=96).requires_grad_(False)


def test_text_is_drawn_from_the_model(model: torch.nn.Module) -> None:
    with torch.no_grad():
        text = own_text(model)
        again = own_text(model)
    assert len(text) == SEQUENCES
    assert all(ids.shape == (1, 64) and ids.dtype is torch.int64 for ids in text)  # as long as the model's positions
    assert all(torch.equal(a, b) for a, b in zip(text, again, strict=True))
    ids = torch.cat(text)
    assert (ids[:, 0] == 1).all()  # BOS
    assert len(ids[:, 1].unique()) > 4
    with torch.no_grad():
        chance = torch.log_softmax(model(ids, use_cache=False).logits[:, 1:-1], -1).exp()
    said = chance.gather(-1, ids[:, 2:, None]).squeeze(-1)
    rank = (chance < said.unsqueeze(-1)).double() @ torch.ones(99, 1, dtype=torch.float64) / 98
    assert 0.5 < float(rank.mean()) < 0.6  # a token is drawn with its probability: those of a random model are all alike


def test_prepared_with_it(model: torch.nn.Module, tmp_path: Path) -> None:
    cached = model.config.use_cache  # type: ignore[union-attr]
    one = lowbit.prepare(copy.deepcopy(model), INT4, "self", checkpoint=tmp_path)
    assert model.config.use_cache == cached  # type: ignore[union-attr]
    assert all(prepared.method == "gptq" for prepared in parts_of(one).values())
    assert equal(one, lowbit.prepare(copy.deepcopy(model), INT4, "self", checkpoint=tmp_path))
