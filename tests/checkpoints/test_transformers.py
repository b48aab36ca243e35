"""transformers' own way: from_pretrained with LowbitConfig, save_pretrained, and what both read of each other."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import lowbit_compiler as lowbit
from helpers import forks
from helpers.compiled import compiled
from lowbit_compiler.checkpoints.linear import StoredLinear
from lowbit_compiler.errors import OptionError

transformers = pytest.importorskip("transformers")

PROGRAM = """
import json, sys
import lowbit_compiler
assert "torch" not in sys.modules or not any(name.startswith("transformers") for name in sys.modules)
import torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained({folder!r})
print(json.dumps([type(model.model.layers[0].mlp.up_proj).__name__, model.lowbit_recipe.name]))
print(json.dumps(model(torch.arange(8)[None]).logits.flatten().tolist()))
"""


def llama(tied: bool) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64, tie_word_embeddings=tied, eos_token_id=None, bos_token_id=1,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval().requires_grad_(False)


@torch.no_grad()
def logits(model: Any, recipe: Any) -> torch.Tensor:
    torch.compiler.reset()
    result: torch.Tensor = compiled(model, recipe)(torch.arange(12)[None]).logits
    return result


@pytest.mark.parametrize(("recipe", "tied"), [("int8", False), ("int4", True)])
def test_every_way_comes_to_the_same(recipe: str, tied: bool, tmp_path: Path) -> None:
    llama(tied).save_pretrained(tmp_path / "float", max_shard_size="60KB")
    original = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "float").requires_grad_(False)
    quantized = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "float", quantization_config=lowbit.LowbitConfig(recipe))
    assert isinstance(quantized.model.layers[0].mlp.up_proj, StoredLinear)
    assert isinstance(quantized.lm_head, StoredLinear) is not tied
    want = logits(original, recipe)
    assert torch.equal(logits(quantized, quantized.lowbit_recipe), want)
    quantized.save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    lowbit.save_pretrained(original, tmp_path / "ours", recipe)
    for folder in ("theirs", "ours"):
        for load in (lowbit.load, transformers.AutoModelForCausalLM.from_pretrained):
            model = load(tmp_path / folder)
            _same(model, quantized)
            assert model.lowbit_recipe == quantized.lowbit_recipe
    _same(lowbit.load(tmp_path / "float", recipe=recipe), quantized)
    assert torch.equal(logits(model, recipe), want)


def _same(a: Any, b: Any) -> None:
    mine, other = a.state_dict(), b.state_dict()
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) and mine[name].dtype is other[name].dtype for name in mine)


def test_nothing_else_is_imported(tmp_path: Path) -> None:
    """In a new process: ``import lowbit_compiler``, which imports neither, is all that a saved model needs."""
    model = llama(False)
    lowbit.save_pretrained(model, tmp_path / "a", "int8-weight-only")
    done = forks.run(PROGRAM.format(folder=str(tmp_path / "a")))
    assert not done.returncode, done.stderr
    kinds, values = (json.loads(line) for line in done.stdout.strip().splitlines()[-2:])
    assert kinds == ["StoredLinear", "int8-weight-only"]
    loaded = lowbit.load(tmp_path / "a")
    with torch.no_grad():
        assert torch.equal(torch.tensor(values), loaded(torch.arange(8)[None]).logits.flatten())


def test_generation_with_a_static_cache_and_a_device_map(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    lowbit.save_pretrained(llama(True), tmp_path / "a", "int8")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "a", device_map="cpu", dtype=torch.bfloat16)
    assert model.model.layers[0].mlp.up_proj.weight_scale.dtype is torch.float32
    assert model.dtype is torch.bfloat16
    settings = {"max_new_tokens": 4, "do_sample": False, "disable_compile": True}
    ids = torch.arange(2, 8)[None]
    dynamic = model.generate(ids, **settings)
    assert torch.equal(model.generate(ids, cache_implementation="static", **settings), dynamic)
    assert dynamic.shape == (1, 10)


def test_a_pipeline(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    lowbit.save_pretrained(llama(True), tmp_path / "a", "int8")
    words = Tokenizer(models.WordLevel({f"w{at}": at for at in range(128)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", pad_token="w0").save_pretrained(tmp_path / "a")
    pipeline = transformers.pipeline("text-generation", model=str(tmp_path / "a"), device="cpu")
    assert isinstance(pipeline.model.model.layers[0].mlp.up_proj, StoredLinear)
    assert pipeline("w1 w2 w3", max_new_tokens=3, do_sample=False)[0]["generated_text"].startswith("w1 w2 w3")


def test_an_encoder_whose_files_are_of_its_base_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2)
    whole = transformers.BertForSequenceClassification(config).eval().requires_grad_(False)
    whole.save_pretrained(tmp_path / "whole")
    base = transformers.BertModel.from_pretrained(tmp_path / "whole").requires_grad_(False)
    (tmp_path / "base").mkdir()
    (tmp_path / "base/model.safetensors").write_bytes((tmp_path / "whole/model.safetensors").read_bytes())
    loaded = lowbit.load(tmp_path / "base", transformers.BertModel(config), recipe="int8")
    _same_codes(loaded, base)


def _same_codes(loaded: Any, original: Any) -> None:
    linear, weight = loaded.encoder.layer[0].intermediate.dense, original.encoder.layer[0].intermediate.dense.weight
    assert torch.equal(linear.parts[0], linear.scheme.operand.quantize(torch.ops.lowbit.rotate(weight))[0])


def test_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="unknown recipe 'int9'"):
        lowbit.LowbitConfig("int9")
    llama(True).save_pretrained(tmp_path / "float")
    with pytest.raises(OptionError, match="ignore 'frist' matches none"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "float", quantization_config=lowbit.LowbitConfig("int8", ["frist"]))
    config = lowbit.LowbitConfig("int8", modules_to_not_convert=["down_proj"])
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "float", quantization_config=config)
    assert type(model.model.layers[0].mlp.down_proj) is torch.nn.Linear
