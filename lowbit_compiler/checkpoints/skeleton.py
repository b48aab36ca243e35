"""A model without weights, to be filled: its parameters are on the meta device, what it computes when it is made is real."""

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lowbit_compiler.errors import CheckpointError, MissingPackageError, OptionError


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Let modules that are made keep their parameters on the meta device; buffers, which files often leave out, stay as they are computed."""
    register = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(self, name, parameter)
        if parameter is not None:
            kind = type(parameter)
            self._parameters[name] = kind(parameter.to("meta"), requires_grad=parameter.requires_grad)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def of_config(config: Mapping[str, Any]) -> Any:
    """Return the model that a config.json of transformers or diffusers describes, of a class of theirs: no code of the folder runs.

    Raises CheckpointError where the config names none, MissingPackageError without the library.
    """
    said = {key: value for key, value in config.items() if key != "quantization_config"}
    library = DIFFUSERS if DIFFUSERS.key in said else TRANSFORMERS
    try:
        module = importlib.import_module(library.name)
    except ImportError as error:
        raise MissingPackageError(f"a model of {library.name} needs that package (pip install {library.name}): {error}") from error
    names = said.get(library.key)
    name = names[0] if isinstance(names, list) and names else names
    kind = getattr(module, name, None) if isinstance(name, str) and name.isidentifier() else None
    if not isinstance(kind, type) or not issubclass(kind, getattr(module, library.base)):
        raise CheckpointError(
            f"config.json: {library.key} takes the name of a model class of {library.name}, got {names!r}; or pass model="
        )
    try:
        return library.make(kind, said)
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"config.json describes no {name}: {type(error).__name__}: {str(error)[:300]}") from error


@dataclass(frozen=True)
class _Library:
    """Whose models config.json can describe: their base class, the key that names a class, and what makes one of that class."""

    name: str
    base: str
    key: str
    make: Callable[[Any, dict[str, Any]], Any]


def _of_transformers(kind: Any, said: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    fields = {key: value for key, value in said.items() if key != "model_type"}
    own = AutoConfig.for_model(str(said.get("model_type")), **fields)
    with without_weights():
        model = kind(own)
    model.tie_weights()  # of parameters that stay: within, each place would get one of its own
    return model


def _of_diffusers(kind: Any, said: dict[str, Any]) -> Any:
    with without_weights():
        return kind.from_config(said)


TRANSFORMERS = _Library("transformers", "PreTrainedModel", "architectures", _of_transformers)
DIFFUSERS = _Library("diffusers", "ModelMixin", "_class_name", _of_diffusers)


def of_model(model: Any) -> nn.Module:
    """Return ``model``, which is to be filled; raises OptionError where it is none."""
    if not isinstance(model, nn.Module):
        raise OptionError(f"model takes a torch.nn.Module (its parameters may be on the meta device), got {type(model).__name__}")
    return model


def dtype_of(dtype: Any) -> torch.dtype | None:
    """Return ``dtype`` where it is one for float weights; raises OptionError else."""
    if dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
        raise OptionError(f"dtype takes torch.float32, torch.bfloat16, torch.float16 or None (as in the file), got {dtype!r}")
    return dtype  # type: ignore[no-any-return]
