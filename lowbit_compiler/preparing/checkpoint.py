"""Finished blocks in a folder, so that an interrupted preparation goes on where it was."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowbit_compiler.errors import OptionError
from lowbit_compiler.preparing.block import Block
from lowbit_compiler.runtime import files
from lowbit_compiler.runtime.prepared import fingerprint
from lowbit_compiler.torch_internals.trees import tree_leaves

ABOUT = "about.json"


class Checkpoint:
    """A folder with one file a finished block, each written beside and renamed, and one that says what they are of."""

    def __init__(self, folder: str | os.PathLike[str], about: str) -> None:
        """Use ``folder``, made where it is not there; raises OptionError where it is of something else than ``about``."""
        self._folder = Path(folder)
        said = self._folder / ABOUT
        try:
            before = json.loads(said.read_text())["of"] if said.exists() else about
            if before == about:
                files.write(said, json.dumps({"of": about}))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OptionError(f"checkpoint takes a folder of its own, got {str(folder)!r}: {error}") from error
        if before != about:
            raise OptionError(
                f"checkpoint {str(folder)!r} is of another model, recipe, data or settings; take an empty folder to begin anew"
            )

    def save(self, number: int, block: Block) -> None:
        """Write what was made of ``block``."""
        state = {
            "parts": {layer.name: list(layer.parts) for layer in block.layers if layer.parts is not None},
            "made_by": {layer.name: list(layer.made_by) for layer in block.layers},
            "changed": dict(block.changed),
            "notes": list(block.notes),
        }
        with files.staged(self._file(number)) as beside:
            torch.save(state, beside)

    def load(self, number: int, block: Block) -> bool:
        """Take what was made of ``block`` before; returns whether there was something."""
        file = self._file(number)
        if not file.exists():
            return False
        state = torch.load(file, weights_only=True)
        for layer in block.layers:
            if layer.name in state["parts"]:
                layer.parts = tuple(part.to(layer.module.weight.device) for part in state["parts"][layer.name])
            layer.made_by = list(state["made_by"][layer.name])
        for name, value in state["changed"].items():
            block.replace(name, value)
        block.notes = list(state["notes"])
        return True

    def _file(self, number: int) -> Path:
        return self._folder / f"block-{number:04}.pt"


def about(model: nn.Module, data: Iterable[Any], *settings: object) -> str:
    """Return a hash of the model's parameters and buffers, of all tensors in ``data``, and of the texts of ``settings``."""
    digest = hashlib.sha256(repr(settings).encode())
    state: Sequence[tuple[str, Tensor]] = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in state:
        digest.update(f"{name} {fingerprint(tensor)}".encode())
    for leaf in tree_leaves(list(data)):
        digest.update(repr(fingerprint(leaf) if isinstance(leaf, Tensor) else leaf).encode())
    return digest.hexdigest()
