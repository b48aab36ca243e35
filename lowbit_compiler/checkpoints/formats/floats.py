"""Float checkpoints, quantized as they are read: some rows at a time, from the file into what the loaded model keeps."""

from collections.abc import Mapping

import torch

from lowbit_compiler.checkpoints.scheme import Scheme
from lowbit_compiler.checkpoints.source import Source, Stored
from lowbit_compiler.checkpoints.tensor_files import TensorFiles
from lowbit_compiler.errors import CheckpointError
from lowbit_compiler.recipes import Recipe

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class FloatSource(Source):
    """Reads float weights, and quantizes those of the linears in ``schemes`` to nearest."""

    def __init__(self, files: TensorFiles, schemes: Mapping[str, Scheme], recipe: Recipe, names: Mapping[str, str]) -> None:
        """``names`` are what the tensors of the model are called in the files, where that differs."""
        super().__init__(files)
        self.schemes, self.recipe, self._names = schemes, recipe, names

    @property
    def named(self) -> set[str]:
        """The linears that the recipe quantizes."""
        return set(self.schemes)

    def linear(self, name: str, n: int, k: int) -> Stored | None:
        """Read and quantize the linear ``name``, where the recipe does."""
        if name not in self.schemes:
            return None
        scheme, key = self.schemes[name], self._names.get(f"{name}.weight", f"{name}.weight")
        entry = self.files.get(key)
        if entry is None or entry.shape != (n, k) or entry.dtype not in FLOATS:
            got = "nothing" if entry is None else f"{str(entry.dtype).removeprefix('torch.')} of shape {entry.shape}"
            raise CheckpointError(f"tensor {key!r} takes float32, bfloat16 or float16 of shape {(n, k)}, got {got}")
        made = scheme.quantize(n, k, lambda start, stop: self.files.read(key, start, stop))
        return Stored(scheme, made, (key,))
