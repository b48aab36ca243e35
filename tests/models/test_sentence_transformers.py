"""SentenceTransformer over a real encoder: with LowbitConfig, saved by the library itself, and by lowbit into its folder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lowbit_compiler as lowbit
from lowbit_compiler.checkpoints.linear import StoredLinear
from lowbit_compiler.demo import minilm

pytestmark = pytest.mark.model
sentences = pytest.importorskip("sentence_transformers")
TEXTS = [
    "A dog runs in the park.",
    "Grand pianos have 88 keys.",
    "Who let the dogs out of there, and why was nobody told of it before noon?",
]
RECIPE = "int8"
LINEARS = 6 * 6 + 1
"""Of MiniLM's layers, and its pooler's."""


def encoder(folder: Path, **settings: Any) -> Any:
    return sentences.SentenceTransformer(str(folder), device="cpu", **settings)


def encoded(model: Any) -> Tensor:
    """Return what the compiled model makes of the texts: its ``compile``, as ``encode`` goes around what torch.compile returns."""
    torch.compiler.reset()
    model.compile(backend="lowbit", options={"recipe": RECIPE, "plan": "always", "remainder": "eager"})
    result: Tensor = model.encode(TEXTS, convert_to_tensor=True)
    assert len([site for site in lowbit.last_report().rewritten if site.kind == "linear"]) == LINEARS
    return result


def test_every_way_comes_to_the_same(tmp_path: Path) -> None:
    folder = minilm.model_folder()
    original = encoder(folder)
    floats = original.encode(TEXTS, convert_to_tensor=True)
    quantized = encoder(folder, model_kwargs={"quantization_config": lowbit.LowbitConfig(RECIPE)})
    assert sum(isinstance(module, StoredLinear) for module in quantized.modules()) == LINEARS
    quantized.save(str(tmp_path / "theirs"))
    original.save(str(tmp_path / "ours"))
    lowbit.save_pretrained(original[0].auto_model, tmp_path / "ours", RECIPE)
    models = [quantized, encoder(tmp_path / "theirs"), encoder(tmp_path / "ours")]
    for other in models[1:]:
        assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in quantized.state_dict().items())
    want = encoded(original)
    assert torch.nn.functional.cosine_similarity(want, floats).min() > 0.999
    assert torch.equal(encoded(models[-1]), want)
