"""Small randomly initialised models of many families, with inputs: what the end-to-end tests compile."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

TOKENS = 13  # odd, so that no kernel gets a round number of rows


@dataclass(frozen=True)
class Case:
    """A family: ``make`` returns a model in eval mode and its inputs; ``rewritten`` is the least number of sites to rewrite."""

    name: str
    make: Callable[[], tuple[nn.Module, dict[str, Any]]]
    rewritten: int
    recipe: str = "int8"
    fullgraph: bool = True


def ids(vocabulary: int = 99, tokens: int = TOKENS, batch: int = 2) -> Tensor:
    """Return random token ids."""
    return torch.randint(2, vocabulary, (batch, tokens))


DECODER = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 136,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}


def causal(family: str, **changes: Any) -> Callable[[], tuple[nn.Module, dict[str, Any]]]:
    """Return a maker of transformers' causal language model ``family`` with the small DECODER sizes."""

    def make() -> tuple[nn.Module, dict[str, Any]]:
        import transformers

        config = getattr(transformers, f"{family}Config")(**{**DECODER, **changes})
        return getattr(transformers, f"{family}ForCausalLM")(config).eval(), {"input_ids": ids()}

    return make


def gpt2() -> tuple[nn.Module, dict[str, Any]]:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=99, n_positions=64, n_embd=96, n_layer=2, n_head=4, use_cache=False, bos_token_id=1, eos_token_id=1)
    return GPT2LMHeadModel(config).eval(), {"input_ids": ids(), "attention_mask": padding()}


def padding(tokens: int = TOKENS) -> Tensor:
    """Return an attention mask of two rows, the second padded at its end."""
    mask = torch.ones(2, tokens, dtype=torch.int64)
    mask[1, -4:] = 0
    return mask


def opt() -> tuple[nn.Module, dict[str, Any]]:
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=99, hidden_size=64, num_hidden_layers=2, ffn_dim=100, num_attention_heads=4, max_position_embeddings=64,
        word_embed_proj_dim=48, use_cache=False,
    )  # fmt: skip
    return OPTForCausalLM(config).eval(), {"input_ids": ids(), "attention_mask": padding()}


def bert() -> tuple[nn.Module, dict[str, Any]]:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=99, hidden_size=84, num_hidden_layers=2, num_attention_heads=4, intermediate_size=133, max_position_embeddings=64
    )
    return BertForMaskedLM(config).eval(), {"input_ids": ids(), "attention_mask": padding(), "token_type_ids": torch.zeros_like(ids())}


def t5() -> tuple[nn.Module, dict[str, Any]]:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=99, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, use_cache=False, decoder_start_token_id=0)
    return T5ForConditionalGeneration(config).eval(), {"input_ids": ids(), "decoder_input_ids": ids(tokens=5), "attention_mask": padding()}


def vit() -> tuple[nn.Module, dict[str, Any]]:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=120, image_size=32, patch_size=8, num_labels=17
    )
    return ViTForImageClassification(config).eval(), {"pixel_values": torch.randn(2, 3, 32, 32)}


def whisper() -> tuple[nn.Module, dict[str, Any]]:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=99, num_mel_bins=20, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=128, decoder_ffn_dim=128, max_source_positions=16, max_target_positions=32, use_cache=False, pad_token_id=0,
        bos_token_id=1, eos_token_id=1, decoder_start_token_id=1,
    )  # fmt: skip
    inputs = {"input_features": torch.randn(2, 20, 32), "decoder_input_ids": ids(tokens=5)}
    return WhisperForConditionalGeneration(config).eval(), inputs


def gemma3() -> tuple[nn.Module, dict[str, Any]]:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(**{**DECODER, "head_dim": 16, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]})
    return Gemma3ForCausalLM(config).eval(), {"input_ids": ids()}


def falcon() -> tuple[nn.Module, dict[str, Any]]:
    from transformers import FalconConfig, FalconForCausalLM

    config = FalconConfig(
        vocab_size=99, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, use_cache=False, bos_token_id=1, eos_token_id=1,
        max_position_embeddings=64,
    )  # fmt: skip
    return FalconForCausalLM(config).eval(), {"input_ids": ids()}


def clip() -> tuple[nn.Module, dict[str, Any]]:
    from transformers import CLIPConfig, CLIPModel

    text = {"vocab_size": 99, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "max_position_embeddings": 32, "bos_token_id": 97, "eos_token_id": 98, "pad_token_id": 1}  # fmt: skip
    vision = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=48)
    tokens = ids(97)
    tokens[:, -1] = 98
    return CLIPModel(config).eval(), {"input_ids": tokens, "pixel_values": torch.randn(2, 3, 32, 32), "attention_mask": padding()}


CASES = [
    Case("gpt2", gpt2, 9),
    Case("opt", opt, 12),
    Case("bert", bert, 12),
    Case("t5", t5, 32),
    Case("vit", vit, 13),
    Case("whisper", whisper, 32),
    Case("llama", causal("Llama"), 15),
    Case("mistral", causal("Mistral", sliding_window=8), 15),
    Case("qwen2", causal("Qwen2"), 15),
    Case("qwen3", causal("Qwen3", head_dim=16), 15),
    Case("gemma2", causal("Gemma2", head_dim=16, query_pre_attn_scalar=16, sliding_window=8), 15),
    Case("gemma3", gemma3, 15),
    Case("phi", causal("Phi"), 13),
    Case("phi3", causal("Phi3"), 9),
    Case("falcon", falcon, 9),
    Case("mixtral", causal("Mixtral", num_local_experts=4), 9),
    Case(
        "qwen2-moe",
        causal(
            "Qwen2Moe",
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=48,
            shared_expert_intermediate_size=80,
            decoder_sparse_step=1,
        ),
        9,
    ),
    Case(
        "qwen3-moe",
        causal("Qwen3Moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48, head_dim=16, decoder_sparse_step=1),
        9,
    ),
    Case("clip", clip, 26),
]


class Einsum(nn.Module):
    """Self attention written with einsum only, as in some JAX ports."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.qkv = nn.Parameter(torch.randn(3, heads, width // heads, width) / width**0.5)
        self.out = nn.Parameter(torch.randn(heads, width // heads, width) / width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("btd,hed->bhte", x, w) for w in self.qkv)
        weights = torch.einsum("bhte,bhse->bhts", q, k).mul(q.shape[-1] ** -0.5).softmax(-1)
        mixed = torch.einsum("bhts,bhse->bhte", weights, v)
        return torch.einsum("bhte,hed->btd", mixed, self.out)


class Attention(nn.Module):
    """nn.MultiheadAttention called in the ways that its arguments allow."""

    def __init__(self, need_weights: bool, batch_first: bool, mask: str) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(64, 4, batch_first=batch_first)
        self.need_weights, self.mask = need_weights, mask

    def forward(self, x: Tensor) -> Any:
        tokens = x.shape[1] if self.inner.batch_first else x.shape[0]
        batch = x.shape[0] if self.inner.batch_first else x.shape[1]
        causal = torch.ones(tokens, tokens, dtype=torch.bool).triu(1) if "causal" in self.mask else None
        padded = torch.zeros(batch, tokens, dtype=torch.bool) if "padding" in self.mask else None
        if padded is not None:
            padded[:, -2:] = True
        out, weights = self.inner(x, x, x, attn_mask=causal, key_padding_mask=padded, need_weights=self.need_weights)
        return out if weights is None else (out, weights)


def attention(need_weights: bool, batch_first: bool, mask: str) -> Callable[[], tuple[nn.Module, dict[str, Any]]]:
    return lambda: (Attention(need_weights, batch_first, mask).eval(), {"x": torch.randn(3, 7, 64)})


def transformer() -> tuple[nn.Module, dict[str, Any]]:
    model = nn.Transformer(64, 4, 2, 2, 100, batch_first=True).eval()
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    return model, {"src": torch.randn(2, 9, 64), "tgt": torch.randn(2, 5, 64), "tgt_mask": mask, "tgt_is_causal": True}


def encoder(norm_first: bool, masked: bool) -> Callable[[], tuple[nn.Module, dict[str, Any]]]:
    def make() -> tuple[nn.Module, dict[str, Any]]:
        layer = nn.TransformerEncoderLayer(64, 4, 100, batch_first=True, norm_first=norm_first, activation="gelu")
        model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
        inputs = {"src": torch.randn(2, 9, 64)}
        if masked:
            inputs["src_key_padding_mask"] = torch.arange(9) >= torch.tensor([[9], [6]])
        return model, inputs

    return make


class Convolutional(nn.Module):
    """A speech front end: convolutions and an LSTM, with a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Conv1d(20, 48, 3, padding="same"), nn.ReLU(), nn.ConvTranspose1d(48, 48, 3))
        self.rnn = nn.LSTM(48, 40, batch_first=True)
        self.head = nn.Linear(40, 33)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.front(x).transpose(1, 2)
        hidden, _ = self.rnn(hidden)
        return self.head(hidden)


class Cells(nn.Module):
    """A loop over recurrent cells."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.rnn = nn.LSTMCell(40, 48), nn.GRUCell(48, 48), nn.RNNCell(48, 32)

    def forward(self, x: Tensor) -> Tensor:
        h, c = x.new_zeros(x.shape[0], 48), x.new_zeros(x.shape[0], 48)
        for step in range(2):
            h, c = self.lstm(x[:, step], (h, c))
        return self.rnn(self.gru(h, c))


class Autocast(nn.Module):
    """A float32 block that computes in bfloat16 by an autocast of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 96), nn.Linear(96, 64)
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.mix = nn.Parameter(torch.randn(64, 64) / 8)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            x = x + self.attention(x, x, x, need_weights=False)[0]
            x = x + torch.einsum("btd,ed->bte", x, self.mix)
            x = x + self.down(torch.relu(self.up(x)))
            return torch.addmm(self.down.bias, x.reshape(-1, 64), self.mix)


class Checkpointed(nn.Module):
    """A block run under activation checkpointing, which makes a graph within the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        from torch.utils.checkpoint import checkpoint

        return self.outer(checkpoint(lambda h: torch.relu(self.inner(h)).softmax(-1), x, use_reentrant=False))


def weight_norm() -> tuple[nn.Module, dict[str, Any]]:
    from torch.nn.utils import parametrizations

    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(64, 48)), nn.ReLU(), parametrizations.spectral_norm(nn.Linear(48, 32)))
    return model.eval(), {"input": torch.randn(5, 64)}


def module(make: Callable[[], nn.Module], *shape: int) -> Callable[[], tuple[nn.Module, dict[str, Any]]]:
    """Return a maker of a module of one input ``x``."""
    return lambda: (make().eval(), {"x": torch.randn(*shape)})


CASES += [
    Case("einsum", module(Einsum, 2, 9, 64), 4),
    Case("transformer", transformer, 20),
    Case("encoder", encoder(False, False), 8),
    Case("encoder-norm-first", encoder(True, False), 8),
    Case("encoder-padding", encoder(False, True), 8),
    Case("attention-weights", attention(True, True, ""), 2),
    Case("attention", attention(False, True, ""), 2),
    Case("attention-sequence-first", attention(False, False, "causal"), 2),
    Case("attention-padding", attention(True, True, "padding"), 2),
    Case("attention-both-masks", attention(False, True, "causal padding"), 2),
    Case("convolutional", module(Convolutional, 2, 20, 15), 0, fullgraph=False),
    Case("cells", module(Cells, 3, 2, 40), 8),
    Case("autocast", module(Autocast, 2, 5, 64), 6),
    Case("checkpoint", module(Checkpointed, 5, 64), 1),
    Case("weight-norm", weight_norm, 1),
]
