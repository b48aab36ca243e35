"""A language model with its key/value cache: what the example exports, small."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.onnx_files import Exported
from lowbit_compiler.exits.onnx.session import session

transformers = pytest.importorskip("transformers")
ROOT = Path(__file__).resolve().parents[2]
SIZES = {"vocab_size": 99, "hidden_size": 192, "intermediate_size": 136, "num_hidden_layers": 2, "num_attention_heads": 3,
         "num_key_value_heads": 3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}  # fmt: skip


def example() -> Any:
    spec = importlib.util.spec_from_file_location("onnx_chat", ROOT / "examples" / "onnx_chat.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_prompt_and_tokens_with_a_cache(tmp_path: Path) -> None:
    """Traced with 3 tokens after 5; run with 6 after none, then one by one: as the whole text at once, and as PyTorch."""
    chat = example()
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).eval()
    wrapped, inputs, shapes = chat.example(model, layers=2)
    exported = Exported(tmp_path, wrapped, inputs, recipe="int8-weight-only", dynamic_shapes=shapes)
    result = exported.agreement({"input_ids": torch.tensor([[5, 7, 11]]), "past": [[torch.zeros(1, 3, 0, 64)] * 2] * 2})
    assert result.agrees, str(result)
    assert [output.name for output in exported.proto.graph.output] == ["logits", *(f"present.{i}.{j}" for i in (0, 1) for j in (0, 1))]
    running, ids = session(exported.path), [5, 7, 11, 13, 17, 19]
    answer = chat.generate(running, ids, stop=-1, most=4)
    empty = [np.zeros((1, 3, 0, 64), np.float32)] * 4
    names = [given.name for given in running.get_inputs()]
    for count in range(4):
        whole = np.array([[*ids, *answer[:count]]], np.int64)
        logits = running.run(["logits"], dict(zip(names, [whole, *empty], strict=True)))[0]
        assert int(logits[0, -1].argmax()) == answer[count]
