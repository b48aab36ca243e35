"""SmolLM2 off its grid is the same function, and its groups lie on no line of 16 numbers any more."""

import pytest
import torch

from helpers import smollm2_off
from lowbit_compiler.demo import model, text
from lowbit_compiler.runtime.formats import operand

pytestmark = pytest.mark.model
EPS = 2.0**-53


def test_the_logits_are_those_of_the_model_as_it_was() -> None:
    """In float64, where the roundings of the scales are all that differs: eps a weight, over the depth of the sums and of the layers."""
    before = model.load(torch.float64)
    ids = text.token_ids(before.tokenizer, "english", 64)
    with torch.no_grad():
        wanted = before.model(ids, use_cache=False).logits
        got = smollm2_off.load(torch.float64).model(ids, use_cache=False).logits
    config = before.model.config
    depth = EPS * config.intermediate_size * config.num_hidden_layers
    assert float((got - wanted).abs().max()) <= depth * float(wanted.abs().max())


def test_no_format_finds_the_weights_again() -> None:
    """The error of int4 in groups of 32 is nothing on the weights of the file, float16 steps aside, and that of other weights here."""
    four = operand("int4", 32)
    assert four is not None

    def error(loaded: model.LoadedModel) -> float:
        weight = loaded.model.get_parameter("model.layers.3.mlp.up_proj.weight")
        return float((four.dequantize(four.quantize(weight)) - weight).norm() / weight.norm())

    assert error(model.load(torch.float32)) < 2.0**-9
    assert error(smollm2_off.load(torch.float32)) > 2.0**-5
