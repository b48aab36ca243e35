"""Files of bitsandbytes' LLM.int8() (arXiv 2208.07339): ``weight`` int8 [N, K] with ``SCB``, the largest magnitude of each row."""

from collections.abc import Mapping
from typing import Any

import torch

from lowbit_compiler.checkpoints.formats.common import rows_of
from lowbit_compiler.checkpoints.source import Source, Stored, exact
from lowbit_compiler.checkpoints.tensor_files import TensorFiles
from lowbit_compiler.errors import CheckpointError
from lowbit_compiler.recipes import find_recipe

METHOD = "bitsandbytes"
MOST = 127.0


class BitsAndBytesSource(Source):
    """Reads int8 linears; the model is to be compiled with "llm-int8", as it was meant."""

    def __init__(self, files: TensorFiles, config: Mapping[str, Any]) -> None:
        super().__init__(files)
        if config.get("load_in_8bit") is not True:
            raise CheckpointError("quantization_config: 4-bit files of bitsandbytes (nf4, fp4) are not read; accepted: load_in_8bit")
        self.recipe = find_recipe("llm-int8")

    @property
    def named(self) -> set[str]:
        """The linears that have an ``SCB``."""
        return {name.removesuffix(".SCB") for name in self.files if name.endswith(".SCB")}

    def linear(self, name: str, n: int, k: int) -> Stored | None:
        """Read the linear ``name`` where it is low-bit."""
        if f"{name}.SCB" not in self.files:
            return None
        codes = exact(self.files, f"{name}.weight", (n, k), torch.int8)
        largest = exact(self.files, f"{name}.SCB", (n,), torch.float32)
        uses = [f"{name}.weight", f"{name}.SCB"]
        if (layout := f"{name}.weight_format") in self.files:
            uses.append(layout)
            if int(exact(self.files, layout, (), torch.uint8)) != 0:
                raise CheckpointError(f"tensor {layout!r} takes 0 (rows), got another layout")
        return rows_of(codes, largest[:, None] / MOST, tuple(uses))
