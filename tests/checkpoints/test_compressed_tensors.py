"""compressed-tensors: its library reads our integers, and we read its."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lowbit_compiler as lowbit
from helpers.compiled import compiled, reports_of
from lowbit_compiler.checkpoints.linear import StoredLinear
from lowbit_compiler.errors import CheckpointError
from lowbit_compiler.recipes import Recipe

transformers = pytest.importorskip("transformers")
theirs = pytest.importorskip("compressed_tensors")

SYMMETRIC = Recipe("int4 symmetric", weights="int4-symmetric", activations="float", group_size=32)
UP = "model.layers.0.mlp.up_proj"
IDS = torch.arange(12)[None]


def llama() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=32, tie_word_embeddings=True, eos_token_id=None,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval().requires_grad_(False)


@pytest.mark.parametrize("recipe", ["int8-vector", "int8-weight-only", SYMMETRIC], ids=str)
def test_their_reader_gets_our_integers(recipe: Any, tmp_path: Path) -> None:
    """transformers loads our files by compressed-tensors, which dequantizes them: the same floats, of every linear."""
    model = llama()
    lowbit.save_pretrained(model, tmp_path / "a", recipe, format="compressed-tensors")
    ours = lowbit.load(tmp_path / "a")
    read = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "a", quantization_config=transformers.CompressedTensorsConfig(dequantize=True)
    )
    low = {name: module for name, module in ours.named_modules() if isinstance(module, StoredLinear)}
    assert len(low) == 7
    for name, module in low.items():
        assert torch.equal(read.get_submodule(name).weight.float(), module.dequantized(torch.float32)), name
    torch.compiler.reset()
    with torch.no_grad():
        assert torch.equal(compiled(ours, recipe)(IDS).logits, compiled(model, recipe)(IDS).logits)


def written(tmp_path: Path, scheme: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """Save a model by compressed-tensors itself, with scales by largest magnitudes; returns it before compression, and its integers."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme, QuantizationStatus, apply_quantization_config
    from compressed_tensors.quantization.lifecycle.forward import quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    model = llama()
    group = QuantizationScheme(targets=["Linear"], **scheme)
    config = QuantizationConfig(config_groups={"group_0": group}, ignore=["lm_head"], quantization_status=QuantizationStatus.FROZEN)
    apply_quantization_config(model, config)
    codes = {}
    for name, module in model.named_modules():
        if getattr(module, "quantization_scheme", None) is not None:
            arguments = module.quantization_scheme.weights
            rows = module.weight.detach()
            groups = rows.reshape(len(rows), -1, arguments.group_size) if arguments.group_size else rows[:, None]
            scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), arguments)
            module.weight_scale.data, module.weight_zero_point.data = (
                scale.to(module.weight_scale.dtype),
                zero.to(module.weight_zero_point.dtype),
            )
            codes[name] = quantize(module.weight, module.weight_scale, module.weight_zero_point, arguments, dtype=torch.int8)
            module.quantization_status = QuantizationStatus.FROZEN
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(tmp_path / "a")
    compressor.update_config(tmp_path / "a")
    return model, codes


INT8 = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": False}
TOKENS = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": True, "strategy": "token"}
READ = {
    "w8a8": ({"weights": {**INT8, "strategy": "channel"}, "input_activations": TOKENS}, "linear_s8s8"),
    "w4a16 groups of 32": ({"weights": {**INT8, "num_bits": 4, "strategy": "group", "group_size": 32}}, "linear_fs4"),
    "w4a16 channels": ({"weights": {**INT8, "num_bits": 4, "strategy": "channel"}}, "linear_fs4"),
}


@pytest.mark.parametrize("scheme", READ)
def test_we_get_their_integers(scheme: str, tmp_path: Path) -> None:
    settings, op = READ[scheme]
    model, codes = written(tmp_path, copy.deepcopy(settings))
    ours = lowbit.load(tmp_path / "a")
    for name, want in codes.items():
        module = ours.get_submodule(name)
        q = module.parts[0]
        assert torch.equal(q.to(torch.int16) - (128 if q.dtype is torch.uint8 else 0), want.to(torch.int16)), name
    torch.compiler.reset()
    with torch.no_grad():
        got, (report,) = reports_of(lambda: compiled(ours, "int8")(IDS).logits)
        want = llama()(IDS).logits
    assert (got - want).norm() / want.norm() < (0.03 if "w8" in scheme else 0.5)
    kernels = {site.lowered_to for site in report.sites if site.module == UP}
    assert kernels <= {f"lowbit::{op}", "lowbit::linear_fu8"}, "int8 rows with a code of -128 are on lines"
    del model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"symmetric": False}, "is not read; accepted: int-quantized with 8 bits"),
        ({"num_bits": 2}, "is not read; accepted: int-quantized with 8 bits"),
        ({"type": "float"}, "is not read; accepted: int-quantized with 8 bits"),
        ({"actorder": "group"}, "is not read; accepted: int-quantized with 8 bits"),
        ({"group_size": 48}, "groups of 48 elements are not read"),
    ],
)
def test_what_is_not_read(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    import json

    lowbit.save_pretrained(llama(), tmp_path / "a", SYMMETRIC, format="compressed-tensors")
    path = tmp_path / "a/config.json"
    said = json.loads(path.read_text())
    said["quantization_config"]["config_groups"]["group_0"]["weights"].update(change)
    path.write_text(json.dumps(said))
    with pytest.raises(CheckpointError) as raised:
        lowbit.load(tmp_path / "a")
    assert message in str(raised.value)
    assert "self_attn.q_proj" in str(raised.value)
