"""Activations between two blocks: in memory, or in files."""

import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor


class Kept:
    """Tensors by number, in their own dtype; with a ``folder`` in a new folder inside it, which goes at the end."""

    def __init__(self, folder: Path | None) -> None:
        self._held: dict[int, Tensor] = {}
        self._folder: Path | None = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix="lowbit-prepare-", dir=folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._held.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def put(self, number: int, tensor: Tensor) -> None:
        """Keep ``tensor`` in the place of what has that number."""
        if self._folder is None:
            self._held[number] = tensor
        else:
            torch.save(tensor, self._folder / f"{number}.pt")

    def get(self, number: int) -> Any:
        """Return the tensor of that number."""
        return self._held[number] if self._folder is None else torch.load(self._folder / f"{number}.pt", weights_only=True)
