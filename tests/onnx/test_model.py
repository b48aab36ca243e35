"""A real model in ONNX Runtime, at numbers of sentences and tokens that were never traced."""

from pathlib import Path

import pytest

from helpers import minilm
from helpers.onnx_files import Exported

SENTENCES = (
    ["A cat sleeps on the warm windowsill.", "The central bank tightened its monetary policy in two steps.", "Yes."],
    ["She plays the violin in a string quartet. " * 8],
)


@pytest.mark.parametrize("layers", [2, pytest.param(6, marks=pytest.mark.model)])
def test_minilm(layers: int, tmp_path: Path) -> None:
    """Its first layers, or all six. Where codes of activations moved, the outputs agree with equal roundings: no value inside needs to be asked."""
    model, tokenizer = minilm.load()
    model.encoder.layer = model.encoder.layer[:layers].eval()
    traced = dict(tokenizer(["The capital of France is Paris.", "No."], padding=True, return_tensors="pt"))
    shapes = {name: {0: "batch", 1: "length"} for name in traced}
    exported = Exported(tmp_path, model, traced, recipe="llm-int8", dynamic_shapes=shapes)
    assert len(exported.report.rewritten) >= 6 * layers
    for sentences in SENTENCES:
        result = exported.agreement(dict(tokenizer(sentences, padding=True, return_tensors="pt")))
        assert all(row.agrees for row in result.followed or result.outputs), str(result)
