"""A model without weights, to be filled: its parameters are on the meta device, what it computes when it is made is real."""

import contextlib
from collections.abc import Iterator, Mapping
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
    """Return the model of transformers that a config.json describes, of a class of transformers itself: no code of the folder runs.

    Raises CheckpointError where the config names none, MissingPackageError without transformers.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingPackageError(f"a model of transformers needs transformers (pip install 'transformers>=5'): {error}") from error
    said = {key: value for key, value in config.items() if key != "quantization_config"}
    names = said.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None
    kind = getattr(transformers, name, None) if name is not None and name.isidentifier() else None
    if not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedModel):
        raise CheckpointError(f"config.json: architectures takes the name of a model class of transformers, got {names!r}; or pass model=")
    try:
        fields = {key: value for key, value in said.items() if key != "model_type"}
        own = transformers.AutoConfig.for_model(str(said.get("model_type")), **fields)
        with without_weights():
            model = kind(own)
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"config.json describes no {name}: {type(error).__name__}: {str(error)[:300]}") from error
    model.tie_weights()
    return model


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
