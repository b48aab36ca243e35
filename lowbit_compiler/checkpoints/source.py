"""Where a model's tensors come from: what every format of checkpoints answers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lowbit_compiler.checkpoints.scheme import Scheme
from lowbit_compiler.checkpoints.tensor_files import TensorFiles
from lowbit_compiler.errors import CheckpointError
from lowbit_compiler.recipes import Recipe


@dataclass(frozen=True)
class Stored:
    """The weight of one linear of a checkpoint: what it is in, its tensors, and the tensors of the files that these were made of."""

    scheme: Scheme
    tensors: dict[str, Tensor]
    uses: tuple[str, ...]


class Source(ABC):
    """A checkpoint whose linears may be low-bit; all else are tensors under the names of the model."""

    recipe: Recipe | None = None
    """What the model is to be compiled with, where the checkpoint says."""

    def __init__(self, files: TensorFiles) -> None:
        self.files = files

    @abstractmethod
    def linear(self, name: str, n: int, k: int) -> Stored | None:
        """Read the weight [n, k] of the linear ``name`` where it is low-bit; raises CheckpointError where it is not as it should be."""

    @property
    @abstractmethod
    def named(self) -> set[str]:
        """The linears that the checkpoint says are low-bit: the model must have them all."""


def exact(files: TensorFiles, name: str, shape: tuple[int, ...], *dtypes: torch.dtype) -> Tensor:
    """Return the tensor ``name`` of that shape and one of these dtypes; raises CheckpointError, before it is read, where it is not so."""
    entry = files.get(name)
    accepted = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    if entry is None:
        raise CheckpointError(f"there is no tensor {name!r} in the checkpoint; expected {accepted} of shape {tuple(shape)}")
    if entry.shape != tuple(shape) or entry.dtype not in dtypes:
        got = f"{str(entry.dtype).removeprefix('torch.')} of shape {entry.shape}"
        raise CheckpointError(f"tensor {name!r} takes {accepted} of shape {tuple(shape)}, got {got}")
    return files.read(name)
