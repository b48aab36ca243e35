"""GPTQ files (AutoGPTQ, GPTQModel): 4-bit groups, ``qweight`` int32 [K / 8, N], ``qzeros`` [G, N / 8], ``scales`` float16 [G, N]."""

from collections.abc import Mapping
from typing import Any

import torch

from lowbit_compiler.checkpoints.formats.common import groups, lines_of, nibbles, scales_of, zeros
from lowbit_compiler.checkpoints.source import Source, Stored, exact
from lowbit_compiler.checkpoints.tensor_files import TensorFiles
from lowbit_compiler.errors import CheckpointError
from lowbit_compiler.runtime.formats.zeros import Z4

METHOD = "gptq"
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
MIDDLE = 8
"""The zero point of symmetric groups."""


class GPTQSource(Source):
    """Reads 4 bits without activation order; symmetric ones for a kernel, others with their zero points, emulated."""

    def __init__(self, files: TensorFiles, config: Mapping[str, Any]) -> None:
        super().__init__(files)
        bits, self._group, ordered = config.get("bits"), config.get("group_size"), config.get("desc_act", False)
        form = config.get("checkpoint_format", "gptq")
        if bits != 4 or form not in ("gptq", "gptq_v2"):
            raise CheckpointError(
                f"quantization_config: bits {bits!r} in checkpoint_format {form!r} are not read; accepted: 4 in gptq or gptq_v2"
            )
        if ordered is not False:
            raise CheckpointError(
                f"quantization_config: desc_act takes False, got {ordered!r}: groups of columns in another order are not read"
            )
        self._one = 1 if form == "gptq" else 0
        """What zero points are stored less."""

    @property
    def named(self) -> set[str]:
        """The linears that have a ``qweight``."""
        return {name.removesuffix(".qweight") for name in self.files if name.endswith(".qweight")}

    def linear(self, name: str, n: int, k: int) -> Stored | None:
        """Read the linear ``name`` where it is low-bit."""
        if f"{name}.qweight" not in self.files:
            return None
        group: Any = k if self._group == -1 else self._group
        scheme, repeats = groups(name, k, group)
        count = -(-k // group)
        if k % 8 or n % 8:
            raise CheckpointError(f"{name}: {n} x {k} is not read; accepted: multiples of 8")
        words = exact(self.files, f"{name}.qweight", (k // 8, n), torch.int32)
        slope = exact(self.files, f"{name}.scales", (count, n), *FLOATS).float().t()
        points = nibbles(exact(self.files, f"{name}.qzeros", (count, n // 8), torch.int32))
        points = (points + self._one).t()
        uses = [f"{name}.{key}" for key in ("qweight", "qzeros", "scales")]
        if (index := f"{name}.g_idx") in self.files:
            uses.append(index)
            if not torch.equal(exact(self.files, index, (k,), torch.int32, torch.int64).long(), torch.arange(k) // group):
                raise CheckpointError(f"tensor {index!r} has groups of columns in another order (desc_act); accepted: one after the other")
        codes = nibbles(words.t().contiguous())
        if bool((points == MIDDLE).all()):
            parts = codes.to(torch.int8) - MIDDLE, scales_of(slope, scheme, k, repeats)
            return Stored(scheme, scheme.store(parts), tuple(uses))
        asymmetric, repeats = zeros(name, k, group, Z4)
        return lines_of(asymmetric, codes, slope, -slope * points.float(), repeats, tuple(uses))
