"""GPTQ files (AutoGPTQ, GPTQModel): 4-bit groups, ``qweight`` int32 [K / 8, N], ``qzeros`` [G, N / 8], ``scales`` float16 [G, N]."""

from collections.abc import Mapping
from typing import Any

import torch

from lowbit_compiler.checkpoints.formats.common import Words, groups, lines_of, nibbles, scales_of, zeros
from lowbit_compiler.checkpoints.source import Stored, exact
from lowbit_compiler.checkpoints.tensor_files import TensorFiles
from lowbit_compiler.errors import CheckpointError
from lowbit_compiler.runtime.formats.zeros import Z4

METHOD = "gptq"
MIDDLE = 8
"""The zero point of symmetric groups."""


class GPTQSource(Words):
    """Reads 4 bits without activation order; symmetric ones as such, others with their zero points."""

    def __init__(self, files: TensorFiles, config: Mapping[str, Any]) -> None:
        super().__init__(files, config.get("group_size"))
        bits, ordered = config.get("bits"), config.get("desc_act", False)
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

    def read(self, name: str, n: int, k: int, group: Any) -> Stored:
        """Read it; other zero points than the middle one are minima."""
        scheme, repeats = groups(name, k, group)
        count = -(-k // group)
        if k % 8 or n % 8:
            raise CheckpointError(f"{name}: {n} x {k} is not read; accepted: multiples of 8")
        words = exact(self.files, f"{name}.qweight", (k // 8, n), torch.int32)
        slope = exact(self.files, f"{name}.scales", (count, n), *self.FLOATS).float().t()
        points = nibbles(exact(self.files, f"{name}.qzeros", (count, n // 8), torch.int32))
        points = (points + self._one).t()
        uses = [f"{name}.{key}" for key in self.KEYS]
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
