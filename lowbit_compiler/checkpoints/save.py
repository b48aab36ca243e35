"""``lowbit.save_pretrained``: a model in files with its linears in low bits."""

import json
import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowbit_compiler.checkpoints import choice
from lowbit_compiler.checkpoints.formats import compressed_tensors, lowbit
from lowbit_compiler.checkpoints.linear import StoredLinear
from lowbit_compiler.checkpoints.scheme import WEIGHT
from lowbit_compiler.checkpoints.tensor_files import CHECKSUMS, INDEX, SUFFIX, WHOLE, bytes_of
from lowbit_compiler.errors import CheckpointError, MissingPackageError, OptionError, WeightFreedError
from lowbit_compiler.recipes import DEFAULT, Recipe, find_recipe
from lowbit_compiler.runtime.files import staged_folder
from lowbit_compiler.runtime.weights import any_freed, where
from lowbit_compiler.torch_internals.dtensor import first_sharded
from lowbit_compiler.torch_internals.sources import WRAPPED

CONFIG, GENERATION = "config.json", "generation_config.json"
FORMATS: Mapping[str, Any] = {lowbit.METHOD: lowbit, compressed_tensors.METHOD: compressed_tensors}
SHARD = 5_000_000_000
RECIPE = "lowbit_recipe"
"""Attribute of a loaded model: what it is to be compiled with."""
SHARED = "shared"
"""Key of the config: names of tensors that are those of other names."""


@dataclass(frozen=True)
class _Piece:
    """Tensors that are written side by side, made when it is their turn."""

    nbytes: int
    make: Callable[[], dict[str, Tensor]]


@dataclass
class _Shard:
    pieces: list[_Piece] = field(default_factory=list)
    nbytes: int = 0


def save_pretrained(
    model: nn.Module,
    directory: str | os.PathLike[str],
    recipe: str | Recipe | None = None,
    *,
    format: str = lowbit.METHOD,
    ignore: Sequence[str] = (),
    max_shard_size: int = SHARD,
) -> None:
    """Write ``model`` to ``directory`` with the linears that ``recipe`` quantizes in low bits; the model itself stays as it is.

    The folder then has config.json (of a model of transformers or diffusers, with its own settings), and model.safetensors, or shards of at most
    ``max_shard_size`` bytes with an index. It appears whole or not at all: what was there before goes last, and other files in it stay. ``recipe`` is
    "int8" by default; of a model that was loaded with low-bit weights, None writes these as they are, and quantizes nothing else. What
    ``lowbit.prepare`` made is written in place of plain rounding, with the width that ``lowbit.switch_bits`` has set. ``ignore`` names linears that stay float.

    ``format``: "lowbit" holds all recipes; "compressed-tensors" what its readers know: int8 rows, and symmetric int4 groups.

    Raises OptionError for bad arguments, for sharded weights and for what a format does not hold, WeightFreedError for a model without its float weights, OSError
    where writing fails.
    """
    model, folder = _checked(model, format, max_shard_size), Path(directory)
    there = choice.stored(model)
    chosen = [] if recipe is None and there else choice.choose(model, find_recipe(DEFAULT if recipe is None else recipe), _patterns(ignore))
    used = vars(model).get(RECIPE) if recipe is None and there else find_recipe(DEFAULT if recipe is None else recipe)
    schemes = there | {name: one.scheme for one in chosen for name in one.names}
    if not schemes:
        raise OptionError(f"{type(model).__name__} has no nn.Linear that the recipe quantizes")
    if not isinstance(used, Recipe):
        used = None
    writer = FORMATS[format]
    left = [name for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, nn.Linear) and name not in schemes]
    config = writer.config(schemes, used, left)
    pieces, shared = _pieces(model, chosen, writer)
    with staged_folder(folder, _replaces) as stage:
        _write_config(model, stage, {**config, **({SHARED: shared} if shared else {})})
        _write_shards(stage, _shards(pieces, max_shard_size))


def _checked(model: Any, format: str, size: int) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise OptionError(f"model takes a torch.nn.Module, got {type(model).__name__}")
    model = model._modules.get(WRAPPED) or model
    assert isinstance(model, nn.Module)
    if any_freed([*model.parameters(), *model.buffers()]):
        raise WeightFreedError("free_weights=True released weights of the model, which saving reads; load the model anew")
    if sharded := first_sharded(model):
        raise OptionError(f"weights of the model are sharded ({sharded}); save the float model before it is cut")
    if format not in FORMATS:
        raise OptionError(f"format takes {' or '.join(map(repr, FORMATS))}, got {format!r}")
    if type(size) is not int or size < 1:
        raise OptionError(f"max_shard_size takes a number of bytes from 1 on, got {size!r}")
    return model


def _patterns(ignore: Any) -> tuple[str, ...]:
    items = (ignore,) if isinstance(ignore, str) else ignore
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise OptionError(f"ignore takes a list of strings, got {ignore!r}")
    return tuple(items)


def _pieces(model: nn.Module, chosen: Sequence[choice.Chosen], writer: Any) -> tuple[list[_Piece], dict[str, str]]:
    """Return what is written, in the order of the state dict, and which names share the tensors of others."""
    first = {f"{one.names[0]}.weight": one for one in chosen}
    left_out = {f"{name}.weight" for one in chosen for name in one.names}
    held = {name: module for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, StoredLinear)}
    once = {module: name for name, module in reversed(held.items())}
    pieces: list[_Piece] = []
    shared: dict[str, str] = {}
    seen: dict[Any, str] = {}
    for name, tensor in model.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        if name in first:
            pieces.append(_quantized(owner, first[name], writer))
        elif owner in held and leaf in held[owner].names:
            if leaf == WEIGHT and once[held[owner]] == owner:
                pieces.append(_held(owner, held[owner], writer))
        elif name not in left_out:
            if not isinstance(tensor, Tensor):
                raise OptionError(f"the state of the model has {name!r}, which is no tensor: {type(tensor).__name__}")
            place = where(tensor) if tensor.numel() else name
            if place in seen:
                shared[name] = seen[place]
                continue
            seen[place] = name
            pieces.append(_Piece(tensor.nbytes, partial(_plain, name, tensor)))
    return pieces, shared


def _plain(name: str, tensor: Tensor) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous()}


def _quantized(owner: str, one: choice.Chosen, writer: Any) -> _Piece:
    nbytes = sum(_nbytes(*each) for each in one.scheme.tensors(*one.linear.weight.shape).values())

    def make() -> dict[str, Tensor]:
        written = writer.tensors(one.scheme, one.tensors(), one.linear.in_features)
        return {f"{owner}.{key}": value for key, value in written.items()}

    return _Piece(nbytes, make)


def _held(owner: str, module: StoredLinear, writer: Any) -> _Piece:
    tensors = {key: tensor.detach().cpu() for key, tensor in module.tensors().items()}

    def make() -> dict[str, Tensor]:
        written = writer.tensors(module.scheme, tensors, module.in_features)
        return {f"{owner}.{key}": value for key, value in written.items()}

    return _Piece(sum(tensor.nbytes for tensor in tensors.values()), make)


def _nbytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def _shards(pieces: Sequence[_Piece], most: int) -> list[_Shard]:
    shards = [_Shard()]
    for piece in pieces:
        if shards[-1].pieces and shards[-1].nbytes + piece.nbytes > most:
            shards.append(_Shard())
        shards[-1].pieces.append(piece)
        shards[-1].nbytes += piece.nbytes
    return shards


def _write_shards(folder: Path, shards: Sequence[_Shard]) -> None:
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise MissingPackageError(f"saving needs safetensors: pip install lowbit-compiler[checkpoints]: {error}") from error
    names: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, 1):
        file = WHOLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}{SUFFIX}"
        tensors = {name: tensor for piece in shard.pieces for name, tensor in _apart(piece.make()).items()}
        sums = {name: _crc(tensor) for name, tensor in tensors.items()}
        save_file(tensors, folder / file, metadata={"format": "pt", CHECKSUMS: json.dumps(sums)})
        names |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(shards) > 1:
        (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": names}, indent=2) + "\n")


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that are dense, and the whole of their memory: safetensors refuses others."""
    return {name: tensor if _whole(tensor) else tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def _whole(tensor: Tensor) -> bool:
    return tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes


def _crc(tensor: Tensor) -> int:
    return zlib.crc32(bytes_of(tensor)) if tensor.numel() else 0


def _write_config(model: nn.Module, folder: Path, quantization: dict[str, Any]) -> None:
    own: Any = getattr(model, "config", None)
    of_transformers = hasattr(own, "to_json_string")
    own = own if of_transformers else model  # the models of diffusers say it themselves
    said = json.loads(own.to_json_string()) if hasattr(own, "to_json_string") else {}
    if of_transformers:
        said["architectures"] = [type(model).__name__]
        said["dtype"] = next((str(each.dtype).removeprefix("torch.") for each in _floats(model)), "float32")
    (folder / CONFIG).write_text(json.dumps({**said, "quantization_config": quantization}, indent=2) + "\n", encoding="utf-8")
    generation: Any = getattr(model, "generation_config", None)
    if hasattr(generation, "save_pretrained"):
        generation.save_pretrained(folder)
        if not (folder / GENERATION).exists():
            raise CheckpointError(f"{type(generation).__name__}.save_pretrained wrote no {GENERATION}")


def _floats(model: nn.Module) -> list[Tensor]:
    stored = {id(tensor) for module in model.modules() if isinstance(module, StoredLinear) for tensor in module.tensors().values()}
    return [tensor for tensor in model.parameters() if tensor.is_floating_point() and id(tensor) not in stored]


def _replaces(name: str) -> bool:
    """Return whether a file of the old folder goes: what is written here, and weights in any form that readers would prefer."""
    return name in (CONFIG, GENERATION, INDEX) or name.endswith(SUFFIX)
