"""The plugin of vLLM against the few classes of vLLM that it uses: what it refuses, what it leaves in float, and its products against float64."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import bounds
from lowbit_compiler.recipes import RECIPES
from lowbit_compiler.runtime.treatments.treatment import at_once

PLUGIN = Path(__file__).resolve().parents[2] / "plugins" / "vllm"
LAYERS = "vllm.model_executor.layers"
N, K = 48, 128


class LinearBase(nn.Module):
    """A linear without a weight yet, of ``input_size`` and ``output_size``."""

    def __init__(self, input_size: int = K, output_size: int = N) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, output_size


class UnquantizedLinearMethod:
    """Makes the float weight."""

    def create_weights(self, layer: Any, *_: Any) -> None:
        layer.weight = nn.Parameter(torch.randn(layer.output_size, layer.input_size), requires_grad=False)


class QuantizationConfig:
    """What vLLM merges is set from outside."""

    def __init__(self) -> None:
        self.packed_modules_mapping: dict[str, list[str]] = {}


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The plugin's module."""
    known = {
        f"{LAYERS}.linear": {"LinearBase": LinearBase, "UnquantizedLinearMethod": UnquantizedLinearMethod},
        f"{LAYERS}.quantization": {"register_quantization_config": lambda name: lambda made: made},
        f"{LAYERS}.quantization.base_config": {"QuantizationConfig": QuantizationConfig},
    }
    for name in ("vllm", "vllm.model_executor", LAYERS, *known):
        module = ModuleType(name)
        module.__dict__.update({"__path__": [], **known.get(name, {})})
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(str(PLUGIN))
    yield importlib.import_module("lowbit_vllm.config")
    for name in [name for name in sys.modules if name.split(".")[0] == "lowbit_vllm"]:
        del sys.modules[name]


def of_format(recipe: str, x: Tensor, w: Tensor) -> Tensor:
    """Return the bound on what rounding both operands to the recipe's formats changes in x w^T [M, N]: their steps, and what turning them rounds."""
    plan = RECIPES[recipe].plan
    operands, errors = [], []
    for one, value in ((plan.x, plan.treatment.activation(at_once, x)[0]), (plan.w, plan.treatment.weight(at_once, w))):
        step = 0 * value.double() if one is None else one.scale.spread(one.step(value), value.shape[-1])
        turned = bounds.rotation(value.double()) if plan.treatment.rotates else 0.0
        operands.append(value.double().abs())
        errors.append((step + turned).expand_as(value))
    (rows, weights), (off, wrong) = operands, errors
    return off @ (weights + wrong).t() + rows @ wrong.t()


@pytest.mark.parametrize("recipe", ["int8", "int8-vector", "int8-weight-only", "int4-weight-only"])
def test_products(recipe: str, config: Any) -> None:
    torch.manual_seed(0)
    method = config.LowbitConfig(recipe).get_quant_method(layer := LinearBase(), "layers.0.mlp.up_proj")
    method.create_weights(layer)
    w, x, bias = layer.weight.detach().clone(), torch.randn(2, 3, K), torch.randn(N)
    method.process_weights_after_loading(layer)
    assert layer.weight.nbytes < w.nbytes / 2
    rows = x.reshape(-1, K)
    y, summed = bounds.linear_float(rows, w.double(), bias, x.dtype)
    fixed = bounds.FIXED * rows.double().abs().amax(1, keepdim=True) * 2 * w.double().abs().sum(1)  # few rows may be 16-bit integers
    got = method.apply(layer, x, bias)
    assert got.shape == (2, 3, N)
    bounds.assert_within(got.reshape(-1, N), y, 4 * summed + fixed + of_format(recipe, rows, w))


def test_what_stays_in_float(config: Any) -> None:
    given = {"recipe": "int8", "ignore": ["lm_head"], "modules_to_not_convert": ["layers.0.self_attn", "down_proj", "re:gate$"]}
    made = config.LowbitConfig.from_config(given)
    for name in ("layers.0.self_attn.o_proj", "layers.3.mlp.down_proj", "layers.1.gate"):
        assert type(made.get_quant_method(LinearBase(), name)) is UnquantizedLinearMethod, name
    for name in ("layers.10.self_attn.o_proj", "layers.3.mlp.up_proj"):
        assert isinstance(made.get_quant_method(LinearBase(), name), config.LowbitLinearMethod), name
    for sizes in ((31, N), (K, 15)):
        assert type(made.get_quant_method(LinearBase(*sizes), "layers.3.mlp.up_proj")) is UnquantizedLinearMethod
    assert isinstance(made.get_quant_method(LinearBase(32, 16), "layers.3.mlp.up_proj"), config.LowbitLinearMethod)
    assert made.get_quant_method(nn.Embedding(4, 4), "embed") is None


def test_what_vllm_merges_is_ignored_whole(config: Any) -> None:
    made = config.LowbitConfig("int8", ["q_proj", "k_proj", "v_proj", "up_proj"])
    made.packed_modules_mapping = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
    assert type(made.get_quant_method(LinearBase(), "layers.0.self_attn.qkv_proj")) is UnquantizedLinearMethod
    with pytest.raises(
        ValueError, match=r"ignore takes all or none of mlp.gate_proj, mlp.up_proj, .* as mlp.gate_up_proj; got mlp.up_proj"
    ):
        made.get_quant_method(LinearBase(), "mlp.gate_up_proj")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"recipe": "int9"}, "unknown recipe 'int9'"),
        ({"recipe": "mxfp4"}, "has no op, and vLLM multiplies by ops alone; accepted: int8"),
        ({"schemes": {}}, "weights are in lowbit's own format"),
        ({"recipe": "int8", "ignore": "lm_head"}, "ignore takes a list of names of modules, got 'lm_head'"),
        ({"recipe": "int8", "ignore": ["re:("]}, "ignore takes names and valid regular expressions after 're:', got 're:\\('"),
    ],
)
def test_refused(given: dict[str, Any], message: str, config: Any) -> None:
    with pytest.raises(ValueError, match=message):
        config.LowbitConfig.from_config(given)


def test_words_of_sites_are_refused(config: Any, tmp_path: Path) -> None:
    path = tmp_path / "mixed.toml"
    path.write_text('activations = "float"\n[sites]\n"down_proj" = "int4"\n')
    with pytest.raises(ValueError, match=r"mixed.toml': sites are not taken by vLLM's plugin, got \{'down_proj': 'int4'\}"):
        config.LowbitConfig(str(path))
