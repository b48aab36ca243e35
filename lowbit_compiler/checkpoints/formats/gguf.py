"""GGUF files of models with Llama's blocks: names, and the rows that llama.cpp has in another order; integers stay as they are."""

import re
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lowbit_compiler.checkpoints.formats.gguf_blocks import FLOATS, KINDS
from lowbit_compiler.checkpoints.formats.gguf_file import GGUFFile
from lowbit_compiler.checkpoints.scheme import Scheme
from lowbit_compiler.checkpoints.source import Source, Stored
from lowbit_compiler.errors import CheckpointError
from lowbit_compiler.runtime.formats import Groups, Operand
from lowbit_compiler.runtime.formats.affine import U4, U5, U8
from lowbit_compiler.runtime.formats.lines import HalfLines
from lowbit_compiler.runtime.formats.s4 import S4
from lowbit_compiler.runtime.formats.zeros import Z4, Z6, FloatLines
from lowbit_compiler.runtime.treatments import Nothing

OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
ARCHITECTURES = {"llama": ("llama", "LlamaForCausalLM"), "qwen2": ("qwen2", "Qwen2ForCausalLM"), "qwen3": ("qwen3", "Qwen3ForCausalLM")}
"""Each with the type and class of transformers' model."""
INTERLEAVED = {"llama": {"attn_q": "head_count", "attn_k": "head_count_kv"}}
"""Whose rows have the two halves of each head's rotary dimensions in turn."""
OPERANDS = {
    "Q4_0": Operand(S4(), Groups(32)),
    "Q4_1": Operand(U4(), HalfLines(32)),
    "Q5_0": Operand(U5(), HalfLines(32)),
    "Q8_0": Operand(U8(), HalfLines(32)),
    "Q4_K": Operand(Z4(), FloatLines(32)),
    "Q6_K": Operand(Z6(), FloatLines(16)),
}


class Names(Mapping[str, Any]):
    """The tensors of a file under the names of transformers, as tensors of floats."""

    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        self.architecture = file.fields.get("general.architecture")
        if self.architecture not in ARCHITECTURES:
            raise CheckpointError(
                f"{file.path.name}: general.architecture {self.architecture!r} is not read; accepted: {', '.join(ARCHITECTURES)}"
            )
        self._theirs = {_name(name): name for name in file.tensors if not name.startswith("rope_freqs")}

    def __getitem__(self, name: str) -> Any:
        found = self.file.tensors[self._theirs[name]]
        return SimpleNamespace(shape=found.shape, dtype=FLOATS[found.kind][1] if found.kind in FLOATS else torch.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._theirs)

    def __len__(self) -> int:
        return len(self._theirs)

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def read(self, name: str) -> Tensor:
        """Return a tensor in floats."""
        return self.in_order(name, self.file.floats(self._theirs[name]))

    def kind(self, name: str) -> int:
        """Return the type of a tensor."""
        return self.file.tensors[self._theirs[name]].kind

    def raw(self, name: str) -> Tensor:
        """Return the blocks of a tensor."""
        return self.file.raw(self._theirs[name])

    def in_order(self, name: str, rows: Tensor) -> Tensor:
        """Return ``rows`` [N, ...] of a tensor as transformers has them."""
        part = re.sub(r"^blk\.\d+\.|\.(weight|bias)$", "", self._theirs[name])
        key = INTERLEAVED.get(str(self.architecture), {}).get(part)
        if key is None:
            return rows
        heads = self.field(f"attention.{key}")
        if rows.shape[0] % (2 * heads):
            raise CheckpointError(f"{name}: {rows.shape[0]} rows are not those of {heads} heads")
        return rows.reshape(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)

    def field(self, name: str) -> int:
        """Return a positive number among the fields; raises CheckpointError where it is none."""
        value = self.file.fields.get(f"{self.architecture}.{name}")
        if type(value) is not int or not 1 <= value < 1 << 31:
            raise CheckpointError(f"{self.file.path.name}: {self.architecture}.{name} takes a number from 1 on, got {value!r}")
        return value


class GGUFSource(Source):
    """Reads Q4_0, Q4_1, Q5_0, Q8_0, Q4_K and Q6_K; tensors that are no linears become floats."""

    files: Any

    @property
    def named(self) -> set[str]:
        """None: in a file embeddings are of few bits too."""
        return set()

    def linear(self, name: str, n: int, k: int) -> Stored | None:
        """Read the linear ``name`` where it is low-bit."""
        key, names = f"{name}.weight", self.files
        if key not in names or names.kind(key) not in KINDS:
            return None
        if names[key].shape != (n, k):
            raise CheckpointError(f"tensor {key!r} takes shape {(n, k)}, got {names[key].shape}")
        kind = KINDS[names.kind(key)]
        codes, slope, minimum = (names.in_order(key, part.reshape(n, -1)) for part in kind.lines(names.raw(key)))
        operand = OPERANDS[kind.name]
        scheme = Scheme(operand, Nothing())
        if operand.format == S4():
            parts: tuple[Tensor, ...] = codes.to(torch.int8) - 8, slope
        else:
            lines = [part.dtype for part in operand.parts[1:3]]
            parts = codes, slope.to(lines[0]), minimum.to(lines[1]), torch.ones(n, 1)
        return Stored(scheme, scheme.store(tuple(part.contiguous() for part in parts)), (key,))


def config(names: Names) -> dict[str, Any]:
    """Return what config.json would say of the model in a file."""
    fields, architecture = names.file.fields, str(names.architecture)
    kind, model = ARCHITECTURES[architecture]
    heads, width = names.field("attention.head_count"), names.field("embedding_length")
    said = {
        "model_type": kind, "architectures": [model], "vocab_size": names["model.embed_tokens.weight"].shape[0], "hidden_size": width,
        "intermediate_size": names.field("feed_forward_length"), "num_hidden_layers": names.field("block_count"),
        "num_attention_heads": heads, "num_key_value_heads": names.field("attention.head_count_kv"),
        "head_dim": fields.get(f"{architecture}.attention.key_length", width // heads),
        "max_position_embeddings": names.field("context_length"),
        "rms_norm_eps": fields.get(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-6),
        "rope_parameters": {"rope_type": "default", "rope_theta": fields.get(f"{architecture}.rope.freq_base", 10000.0)},
        "tie_word_embeddings": "lm_head.weight" not in names,
    }  # fmt: skip
    tokens = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    return said | {key: fields.get(f"tokenizer.ggml.{name}_token_id") for key, name in tokens.items()}


def _name(theirs: str) -> str:
    """Return transformers' name of a tensor."""
    stem, _, leaf = theirs.rpartition(".")
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.{leaf}"
    found = re.fullmatch(r"blk\.(\d{1,6})\.(\w+)", stem)
    if found is None or found[2] not in LAYER:
        raise CheckpointError(f"tensor {theirs!r} is none of the blocks that are read; accepted: {', '.join([*OUTSIDE, *LAYER])}")
    return f"model.layers.{int(found[1])}.{LAYER[found[2]]}.{leaf}"
