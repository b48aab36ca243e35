"""Our own format: every operand and treatment there is, under the names of ``StoredLinear``'s tensors.

The ``quantization_config`` in config.json lists the schemes, each with the linears that it is of::

    {"quant_method": "lowbit", "version": 1, "recipe": {"name": "int8", ...},
     "schemes": [{"weights": "s8", "arguments": [], "treatment": "rotation", "linears": ["model.layers.0.mlp.up_proj", ...]}]}
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from lowbit_compiler.checkpoints.scheme import Scheme
from lowbit_compiler.checkpoints.scheme import read as read_scheme
from lowbit_compiler.checkpoints.source import Source, Stored, exact
from lowbit_compiler.checkpoints.tensor_files import TensorFiles
from lowbit_compiler.errors import CheckpointError, OptionError
from lowbit_compiler.recipes import Recipe

METHOD = "lowbit"
VERSION = 1


def config(schemes: Mapping[str, Scheme], recipe: Recipe | None, left: Sequence[str] = ()) -> dict[str, Any]:
    """Return the ``quantization_config`` of a model with these linears; ``recipe`` is what it is to be compiled with, ``left`` stay float."""
    linears: dict[Scheme, list[str]] = {}
    for name, scheme in schemes.items():
        linears.setdefault(scheme, []).append(name)
    said = [{**scheme.spelled(), "linears": names} for scheme, names in linears.items()]
    return {"quant_method": METHOD, "version": VERSION, **({} if recipe is None else {"recipe": asdict(recipe)}), "schemes": said}


def tensors(scheme: Scheme, stored: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    """Return what is written of a linear: its own tensors."""
    return stored


def schemes_of(config: Mapping[str, Any]) -> dict[str, Scheme]:
    """Return the scheme of each linear that a ``quantization_config`` names; raises CheckpointError for one that is wrong."""
    if config.get("version") != VERSION:
        raise CheckpointError(f"quantization_config: version takes {VERSION}, got {config.get('version')!r}: written by a newer lowbit?")
    said = config.get("schemes")
    if not isinstance(said, list):
        raise CheckpointError(f"quantization_config: schemes takes a list, got {type(said).__name__}")
    found: dict[str, Scheme] = {}
    for one in said:
        scheme = read_scheme(one)
        names = one.get("linears")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise CheckpointError(f"quantization_config: linears takes a list of names, got {str(names)[:100]}")
        if twice := next((name for name in names if name in found), None):
            raise CheckpointError(f"quantization_config: linear {twice!r} has two schemes")
        found.update(dict.fromkeys(names, scheme))
    return found


def recipe_of(config: Mapping[str, Any]) -> Recipe | None:
    """Return the recipe that a ``quantization_config`` names; raises CheckpointError for one that is wrong."""
    said = config.get("recipe")
    if said is None:
        return None
    try:
        return Recipe(**said)
    except (TypeError, OptionError) as error:
        raise CheckpointError(f"quantization_config: recipe: {error}") from error


class LowbitSource(Source):
    """Reads what ``save_pretrained`` wrote."""

    def __init__(self, files: TensorFiles, config: Mapping[str, Any]) -> None:
        super().__init__(files)
        self.schemes = schemes_of(config)
        self.recipe = recipe_of(config)

    def linear(self, name: str, n: int, k: int) -> Stored | None:
        """Read the linear ``name`` where it is low-bit."""
        scheme = self.schemes.get(name)
        if scheme is None:
            return None
        wanted = scheme.tensors(n, k)
        tensors = {key: exact(self.files, f"{name}.{key}", *each) for key, each in wanted.items()}
        return Stored(scheme, tensors, tuple(f"{name}.{key}" for key in wanted))

    @property
    def named(self) -> set[str]:
        """The linears that are low-bit."""
        return set(self.schemes)
