"""AWQ files (AutoAWQ, "gemm"): 4-bit groups with zero points, ``qweight`` int32 [K, N / 8], ``qzeros`` [G, N / 8], ``scales`` float16 [G, N]."""

from collections.abc import Mapping
from typing import Any

import torch

from lowbit_compiler.checkpoints.formats.common import Words, lines_of, nibbles, zeros
from lowbit_compiler.checkpoints.source import Stored, exact
from lowbit_compiler.checkpoints.tensor_files import TensorFiles
from lowbit_compiler.errors import CheckpointError
from lowbit_compiler.runtime.formats.zeros import Z4

METHOD = "awq"
ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""At which place of a word each of eight columns is."""


class AWQSource(Words):
    """Reads 4 bits in the layout "gemm", with their zero points."""

    def __init__(self, files: TensorFiles, config: Mapping[str, Any]) -> None:
        super().__init__(files, config.get("group_size", config.get("q_group_size")))
        bits, form = config.get("bits", config.get("w_bit")), config.get("version", config.get("format", "gemm"))
        if bits != 4 or str(form).lower() != "gemm" or config.get("zero_point", True) is not True:
            raise CheckpointError(
                f"quantization_config: bits {bits!r} in version {form!r} are not read; accepted: 4 in gemm, with zero_point"
            )

    def read(self, name: str, n: int, k: int, group: Any) -> Stored:
        """Read codes, and zero points as minima."""
        scheme, repeats = zeros(name, k, group, Z4)
        count = -(-k // group)
        if n % 8:
            raise CheckpointError(f"{name}: {n} x {k} is not read; accepted: multiples of 8 rows")
        codes = nibbles(exact(self.files, f"{name}.qweight", (k, n // 8), torch.int32), ORDER).t()
        points = nibbles(exact(self.files, f"{name}.qzeros", (count, n // 8), torch.int32), ORDER).t()
        slope = exact(self.files, f"{name}.scales", (count, n), *self.FLOATS).float().t()
        uses = tuple(f"{name}.{key}" for key in self.KEYS)
        return lines_of(scheme, codes.contiguous(), slope, -slope * points.float(), repeats, uses)
