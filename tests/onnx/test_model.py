"""A real model in ONNX Runtime, at numbers of sentences and tokens that were never traced."""

from pathlib import Path

import pytest

from helpers import minilm
from helpers.onnx_files import Exported

SENTENCES = (
    ["Hi."],
    ["A cat sleeps on the warm windowsill.", "The central bank tightened its monetary policy in two steps.", "Yes."],
    ["She plays the violin in a string quartet. " * 20],
)


@pytest.mark.model
@pytest.mark.parametrize("recipe", ["llm-int8", "int4-weight-only"])
def test_minilm(recipe: str, tmp_path: Path) -> None:
    """Where codes of activations moved, the outputs agree with equal roundings: no value inside needs to be asked."""
    model, tokenizer = minilm.load()
    traced = dict(tokenizer(["The capital of France is Paris.", "No."], padding=True, return_tensors="pt"))
    shapes = {name: {0: "batch", 1: "length"} for name in traced}
    exported = Exported(tmp_path, model, traced, recipe=recipe, dynamic_shapes=shapes)
    assert len(exported.report.rewritten) >= 36
    for sentences in SENTENCES:
        result = exported.agreement(dict(tokenizer(sentences, padding=True, return_tensors="pt")))
        assert all(row.agrees for row in result.followed or result.outputs), str(result)
