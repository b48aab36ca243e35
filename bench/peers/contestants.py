"""Who takes part: which file of this folder builds a contestant, from weights of which dtype, and what it takes part in."""

import os
from dataclasses import dataclass, field
from typing import Any

MODELS = ("prefill", "decode", "sentences")
TORCH = (*MODELS, "steps")  # what keeps its cache in the model takes any step

ISA = os.environ.get("LOWBIT_ISA", "")  # what everybody is held to, who can be
# What holds torch, its oneDNN and Inductor, and OpenVINO's oneDNN, to the instruction sets of LOWBIT_ISA.
LIMITS = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "vnni": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
    "bf16": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
}

FROZEN = {"modules": "frozen", "weights": "frozen"}


@dataclass(frozen=True)
class Contestant:
    """``module.build(task, case, **options)`` makes it; ``extra`` ones run only when they are named.

    ``limits`` are the variables that hold it to an instruction set; with none it always takes the best that the machine has.
    """

    module: str
    dtype: str | None = "bfloat16"  # none: it has weights of its own
    options: dict[str, Any] = field(default_factory=dict)
    kinds: tuple[str, ...] = TORCH
    extra: bool = False
    limits: dict[str, dict[str, str]] = field(default_factory=lambda: LIMITS)


def _lowbit(recipe: str, **more: Any) -> Contestant:
    return Contestant("torch_models", options={"backend": "lowbit", "options": {"recipe": recipe}}, **more)


def _inductor(dtype: str = "bfloat16", extra: bool = False, **options: Any) -> Contestant:
    return Contestant("torch_models", dtype, {"backend": "inductor", **options}, extra=extra)


def _linear(call: str) -> Contestant:
    return Contestant("linears", options={"call": call}, kinds=("linear",))


def _llama(file_type: str) -> Contestant:
    return Contestant("llama_models", None, {"file_type": file_type}, kinds=("prefill", "decode", "steps"), limits={})


CONTESTANTS: dict[str, Contestant] = {
    "inductor-bf16": _inductor(),
    "lowbit-int8": _lowbit("int8"),
    "lowbit-int8-reduce-overhead": Contestant("torch_models", options={"backend": "lowbit", "mode": "reduce-overhead"}, extra=True),
    **{
        f"lowbit-{recipe}-frozen": Contestant(
            "torch_models", options={"backend": "lowbit", "options": {"recipe": recipe, **FROZEN}}, extra=True
        )
        for recipe in ("int8", "int4-weight-only", "int4-int8")
    },
    "lowbit-int8-f32": Contestant("torch_models", "float32", {"backend": "lowbit", "options": {"recipe": "int8"}}, extra=True),
    "lowbit-llm-int8": _lowbit("llm-int8"),
    "lowbit-int8-weight-only": _lowbit("int8-weight-only"),
    "lowbit-int4-weight-only": _lowbit("int4-weight-only"),
    "lowbit-int4-int8": _lowbit("int4-int8"),
    "eager-bf16": Contestant("torch_models", options={"backend": "eager"}),
    "inductor-f32": _inductor("float32"),
    "inductor-bf16-frozen": _inductor(freezing=True),
    "inductor-bf16-max-autotune": _inductor(mode="max-autotune", freezing=True, extra=True),
    "torchao-int8-dynamic": _inductor(torchao="Int8DynamicActivationInt8WeightConfig"),
    "torchao-int8-weight-only": _inductor(torchao="Int8WeightOnlyConfig"),
    "openvino-bf16": Contestant("openvino_models", "float32", {"weights": None}, kinds=MODELS),
    "openvino-int8-weight": Contestant("openvino_models", "float32", {"weights": "int8"}, kinds=MODELS),
    "onnxruntime-f32": Contestant("onnx_models", "float32", {"int8": False}, kinds=MODELS, limits={}),
    "onnxruntime-int8-dynamic": Contestant("onnx_models", "float32", {"int8": True}, kinds=MODELS, limits={}),
    "bitsandbytes-llm-int8": Contestant("bitsandbytes_models", limits={}),
    "llama.cpp-q8_0": _llama("Q8_0"),
    "llama.cpp-q4_1": _llama("Q4_1"),
    "llama.cpp-q4_0": _llama("Q4_0"),
    "torch-bf16": _linear("bf16"),
    "torch-bf16-packed": _linear("bf16_packed"),
    "lowbit-s8s8": _linear("s8s8"),
    "lowbit-s8s8-rotated": _linear("s8s8_rotated"),
    "lowbit-fs8": _linear("fs8"),
    "lowbit-fs4": _linear("fs4"),
    "onednn-int8-no-quantize": _linear("qlinear"),
    "torch-int-mm": _linear("int_mm"),
}

# What ratios are taken against, in every group of children: torch's own way at the same dtype.
BASES = {**dict.fromkeys(TORCH, "inductor-bf16"), "linear": "torch-bf16"}


def taking_part(kind: str, asked: list[str], timed: bool) -> list[str]:
    """Return who runs in a column of ``kind``: everyone but the extra ones where nobody is asked for, and the base first if it is timed."""
    names = asked or [name for name, contestant in CONTESTANTS.items() if not contestant.extra]
    names = [name for name in CONTESTANTS if name in names and kind in CONTESTANTS[name].kinds]
    base = BASES[kind]
    return [base, *(name for name in names if name != base)] if names and timed else names
