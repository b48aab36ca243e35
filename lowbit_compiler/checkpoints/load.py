"""``lowbit.load``: a model out of files with its linears in low bits, of our own format or another's, or quantized as it is read."""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowbit_compiler.checkpoints import choice, json_file, skeleton
from lowbit_compiler.checkpoints.formats.awq import AWQSource
from lowbit_compiler.checkpoints.formats.bitsandbytes import BitsAndBytesSource
from lowbit_compiler.checkpoints.formats.compressed_tensors import CompressedTensorsSource
from lowbit_compiler.checkpoints.formats.floats import FloatSource
from lowbit_compiler.checkpoints.formats.gguf import GGUFSource, Names
from lowbit_compiler.checkpoints.formats.gguf import config as gguf_config
from lowbit_compiler.checkpoints.formats.gguf_file import GGUFFile
from lowbit_compiler.checkpoints.formats.gptq import GPTQSource
from lowbit_compiler.checkpoints.formats.lowbit import LowbitSource
from lowbit_compiler.checkpoints.linear import StoredLinear
from lowbit_compiler.checkpoints.save import CONFIG, GENERATION, RECIPE, SHARED
from lowbit_compiler.checkpoints.source import Source
from lowbit_compiler.checkpoints.tensor_files import TensorFiles
from lowbit_compiler.errors import CheckpointError, OptionError
from lowbit_compiler.preparing.progress import progress
from lowbit_compiler.recipes import DEFAULT, Recipe, find_recipe
from lowbit_compiler.runtime.weights import trim

log = logging.getLogger("lowbit_compiler")
READERS: Mapping[str, Callable[[TensorFiles, Mapping[str, Any]], Source]] = {
    "lowbit": LowbitSource,
    "compressed-tensors": CompressedTensorsSource,
    "gptq": GPTQSource,
    "awq": AWQSource,
    "bitsandbytes": BitsAndBytesSource,
}
"""By the ``quant_method`` of a config."""


def load(
    source: str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    recipe: str | Recipe | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> Any:
    """Return the model in ``source``, a folder of safetensors files with config.json or one GGUF file, in eval mode and without gradients.

    A low-bit checkpoint is taken as it is, no code of it is rounded again. A float one is quantized by ``recipe`` ("int8" by default) while
    it is read: at no time is there more than some rows in float. ``lowbit_recipe`` of the result is what to compile it with::

        model = lowbit.load(folder)
        model = torch.compile(model, backend="lowbit", options={"recipe": model.lowbit_recipe})

    ``model`` is what to fill, of any class, with parameters on the meta device or elsewhere; without it config.json names a class of
    transformers or diffusers. Code in the folder is never run. ``dtype`` converts what stays float; ``device`` is where the model goes.

    Raises OptionError for bad arguments and CheckpointError for files that are damaged, do not fit the model, or hold what is not read.
    """
    path, wanted = Path(source), skeleton.dtype_of(dtype)
    folder = path if path.is_dir() else path.parent
    config = json_file.read(folder / CONFIG) if (folder / CONFIG).exists() else {}
    said = config.get("quantization_config") or {}
    if not isinstance(said, dict):
        raise CheckpointError(f"{CONFIG}: quantization_config takes an object, got {type(said).__name__}")
    gguf = path.suffix == ".gguf"
    if (said or gguf) and recipe is not None:
        raise OptionError(
            f"{path} is quantized by {'ggml' if gguf else said.get('quant_method')!r} already: recipe takes None, got {recipe!r}"
        )
    filled = None if model is None and gguf else skeleton.of_config(config) if model is None else skeleton.of_model(model)
    files: Any = Names(GGUFFile(path)) if gguf else TensorFiles(path)
    try:
        filled = skeleton.of_config(gguf_config(files)) if filled is None else filled
        reader = GGUFSource(files) if gguf else _source(files, said, filled, recipe)
        _fill(filled, reader, said.get(SHARED, {}), wanted)
    finally:
        files.close()
    if reader.recipe is not None:
        vars(filled)[RECIPE] = reader.recipe
    if (folder / GENERATION).exists() and hasattr(filled, "generation_config"):
        from transformers import GenerationConfig

        filled.generation_config = GenerationConfig.from_dict(json_file.read(folder / GENERATION))
    filled.eval().requires_grad_(False)
    return filled if device is None else filled.to(device)


def _source(files: TensorFiles, said: Mapping[str, Any], model: nn.Module, recipe: str | Recipe | None) -> Source:
    if said:
        method = said.get("quant_method")
        if not isinstance(method, str) or method not in READERS:
            raise CheckpointError(f"quantization_config: quant_method takes one of {', '.join(READERS)}, got {method!r}")
        return READERS[method](files, said)
    found = find_recipe(DEFAULT if recipe is None else recipe)
    schemes = {name: one.scheme for one in choice.choose(model, found) for name in one.names}
    return FloatSource(files, schemes, found, _names(model, files))


def _names(model: nn.Module, files: TensorFiles) -> dict[str, str]:
    """Return what the tensors of ``model`` are called in ``files`` where that is its base model, or holds it."""
    prefix = getattr(model, "base_model_prefix", "") or ""
    names = {}
    for name in model.state_dict():
        other = name.removeprefix(f"{prefix}.") if prefix and name.startswith(f"{prefix}.") else f"{prefix}.{name}" if prefix else name
        if name not in files and other in files:
            names[name] = other
    return names


def _fill(model: nn.Module, source: Source, shared: Any, dtype: torch.dtype | None) -> None:
    """Give ``model`` its tensors, linears first; raises CheckpointError for one that there is not."""
    if not isinstance(shared, dict) or not all(isinstance(name, str) for name in shared.values()):
        raise CheckpointError(f"quantization_config: {SHARED} takes an object of names, got {str(shared)[:100]}")
    linears = {
        name: module for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, (nn.Linear, StoredLinear))
    }
    if lost := sorted(source.named - linears.keys()):
        raise CheckpointError(f"{lost[0]!r} is a low-bit linear of the checkpoint, and no nn.Linear of {type(model).__name__}")
    used: set[str] = set()
    made: dict[nn.Module, StoredLinear] = {}
    with torch.no_grad(), progress(len(linears) + 1) as step:
        for name, module in linears.items():
            if module not in made and isinstance(module, nn.Linear):
                stored = source.linear(name, module.out_features, module.in_features)
                if stored is not None:
                    made[module] = StoredLinear.like(module, stored.scheme)
                    made[module].fill(stored.tensors)
                    used.update(stored.uses)
            if module in made:
                model.set_submodule(name, made[module])
            step(name)
        used |= _fill_others(model, source, shared, dtype)
        step("")
    if extra := sorted(source.files.keys() - used):
        log.warning("%d tensors of the checkpoint are none of the model's, such as %r", len(extra), extra[0])


def _fill_others(model: nn.Module, source: Source, shared: Mapping[str, str], dtype: torch.dtype | None) -> set[str]:
    names = _names(model, source.files)
    used: set[str] = set()
    given: dict[int, Tensor] = {}
    by_name: dict[str, Tensor] = {}
    kept = {
        f"{name}.{key}"
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, StoredLinear)
        for key in module.names
    }
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    for name, old in model.state_dict(keep_vars=True).items():
        if name in kept:
            continue
        file_name = names.get(name, name)
        if id(old) in given:
            new = given[id(old)]
        elif file_name in source.files:
            new = _read(source.files, file_name, old, dtype)
        elif shared.get(name) in by_name:
            new = by_name[shared[name]]
        elif name in buffers and not old.is_meta:
            continue  # computed when the model was made
        else:
            raise CheckpointError(
                f"there is no tensor {file_name!r} in the checkpoint; {type(model).__name__} takes one of shape {tuple(old.shape)}"
            )
        used.add(file_name)
        given[id(old)] = by_name[name] = new
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        (owner._buffers if leaf in owner._buffers else owner._parameters)[leaf] = new  # type: ignore[assignment]
    if meta := next((name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta), None):
        raise CheckpointError(
            f"no file has a tensor {meta!r}, which {type(model).__name__} computes as it is made: not with buffers on the meta device"
        )
    return used


def _read(files: TensorFiles, name: str, old: Tensor, dtype: torch.dtype | None) -> Tensor:
    entry = files[name]
    if entry.shape != tuple(old.shape) or entry.dtype.is_floating_point != old.is_floating_point():
        got = f"{str(entry.dtype).removeprefix('torch.')} of shape {entry.shape}"
        raise CheckpointError(f"tensor {name!r} takes {str(old.dtype).removeprefix('torch.')} of shape {tuple(old.shape)}, got {got}")
    new = files.read(name)
    if dtype is not None and new.is_floating_point():
        new = new.to(dtype)
        trim()
    return nn.Parameter(new, requires_grad=False) if isinstance(old, nn.Parameter) else new
