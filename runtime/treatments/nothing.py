"""Vector-wise quantization of the operands as they are (LLM.int8(), arXiv 2208.07339, section 2)."""

from dataclasses import dataclass

from lowbit_compiler.runtime.treatments.treatment import Treatment


@dataclass(frozen=True)
class Nothing(Treatment):
    """Both operands are quantized as they are."""

    name = "none"
