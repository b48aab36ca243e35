"""Small randomly initialised models of many families, with inputs: what the end-to-end tests compile."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from helpers.case import Case
from helpers.layers import MODULES

TOKENS = 13  # odd, so that no kernel gets a round number of rows


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
    Case("vit", vit, 14),
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
    Case("clip", clip, 27),
    *MODULES,
]
