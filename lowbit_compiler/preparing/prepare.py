"""``lowbit.prepare``: better low-bit weights for a model, made once, block by block."""

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowbit_compiler.errors import OptionError, WeightFreedError
from lowbit_compiler.preparing.block import Block, Call
from lowbit_compiler.preparing.calibration import calls_of
from lowbit_compiler.preparing.chain import Chain, block_lists
from lowbit_compiler.preparing.checkpoint import Checkpoint, about
from lowbit_compiler.preparing.kept import Kept
from lowbit_compiler.preparing.layer import Layer, is_head, keep_low_bit, layers, low_bit
from lowbit_compiler.preparing.method import Method
from lowbit_compiler.preparing.methods import DEFAULT, find_methods
from lowbit_compiler.preparing.progress import Step, progress
from lowbit_compiler.recipes import Recipe, find_recipe
from lowbit_compiler.runtime.prepared import Prepared
from lowbit_compiler.runtime.weights import any_freed
from lowbit_compiler.torch_internals.dtensor import first_sharded

log = logging.getLogger("lowbit_compiler")


def prepare(
    model: nn.Module,
    recipe: str | Recipe,
    data: Iterable[Any] | str | None = None,
    *,
    methods: Sequence[str | Method] | None = None,
    sequential: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> nn.Module:
    """Quantize the linears of ``model`` as ``recipe`` says, with ``data`` in view; returns ``model``, which carries the result.

    ``torch.compile(model, backend="lowbit", options={"recipe": recipe})`` and the exports take these weights in place of what they would
    make themselves, while the float weights, which stay as they are, are not written to; with another format or treatment they are
    ignored, and the report says so. Copies and pickles of the model carry them too, its state dict does not.

    ``data`` are inputs of the model: an iterable of tensors, tuples of arguments or dicts of keyword arguments, some thousand tokens in all;
    "self": text that a language model writes itself, of any tokenizer; None: weights are rounded to nearest, as compiling does.
    ``methods`` are names (preparing/methods.py), with data ("gptq",) by default. Blocks of one list (layers of a transformer) are done one
    after the other, with ``sequential`` on what the low-bit blocks before return, else on what the float ones do. ``cache_dir`` holds
    activations between blocks meanwhile, else memory does. ``checkpoint`` is a folder for finished blocks: the same call goes on there
    after an interruption, and comes to the same tensors.

    Raises OptionError for bad arguments and sharded weights, and WeightFreedError for a model without its float weights, before anything is run.
    """
    recipe = find_recipe(recipe)
    _check(model, data, methods)
    chosen = find_methods((() if data is None else DEFAULT) if methods is None else methods, recipe)
    with torch.no_grad(), _quiet(model):
        work = layers(model, recipe)
        if not work:
            raise OptionError(f"{type(model).__name__} has no nn.Linear that recipe {recipe.name!r} quantizes")
        if data is None:
            for layer in work:
                layer.settled()
        else:
            calls = calls_of(model, data)
            settings = (recipe, chosen, sequential)
            saved = None if checkpoint is None else Checkpoint(checkpoint, about(model, calls, *settings))
            with Kept(None if cache_dir is None else Path(cache_dir)) as kept:
                _Preparation(model, work, chosen, sequential, kept, saved).run(calls)
    for layer in work:
        if layer.parts is not None:
            Prepared(layer.module, layer.plan.w, layer.plan.treatment, layer.parts, ", ".join(layer.made_by)).attach()
    return model


def _check(model: nn.Module, data: object, methods: Sequence[str | Method] | None) -> None:
    """Raise OptionError or WeightFreedError for what cannot be prepared."""
    if not isinstance(model, nn.Module):
        raise OptionError(f"model takes a torch.nn.Module, got {type(model).__name__}")
    if training := next((name or type(module).__name__ for name, module in model.named_modules() if module.training), None):
        raise OptionError(f"module {training!r} is in training mode; call model.eval() before it is prepared")
    if any_freed([*model.parameters(), *model.buffers()]):
        raise WeightFreedError("free_weights=True released float weights of the model, which preparing reads; load the model anew")
    if sharded := first_sharded(model):
        raise OptionError(f"weights of the model are sharded ({sharded}); prepare the model before it is cut")
    if data is None and methods:
        raise OptionError(f"methods takes nothing where data is None, got {methods!r}: every method looks at activations")


class _Preparation:
    """One run over the blocks of a model."""

    def __init__(
        self, model: nn.Module, work: list[Layer], methods: list[Method], sequential: bool, kept: Kept, saved: Checkpoint | None
    ) -> None:
        self._model, self._work, self._methods = model, work, methods
        self._sequential, self._kept, self._saved = sequential, kept, saved
        self._number = 0

    def run(self, calls: list[Call]) -> None:
        """Do what is beside the blocks, then the blocks of every list."""
        lists = block_lists(self._model, (layer.module for layer in self._work))
        inside = {module for blocks in lists for _, block in blocks for module in block.modules()}
        beside = [layer for layer in self._work if layer.module not in inside and not is_head(layer)]
        steps = len(lists) * len(calls) + 2 * sum(map(len, lists)) + 2 * bool(beside)
        with contextlib.ExitStack() as done, progress(steps) as step:
            if beside:
                block = Block("", self._model, beside, lambda: iter(calls))
                self._quantize(block, step)
                self._finish(block, done)
                step("")
            for blocks in lists:
                chain = Chain(self._model, blocks, self._kept)
                for _ in chain.record(calls):
                    step(f"inputs of {blocks[0][0].rpartition('.')[0]}")
                for index, (name, module) in enumerate(blocks):
                    members = set(module.modules())
                    mine = [layer for layer in self._work if layer.module in members and layer.parts is None]
                    block = Block(name, module, mine, lambda chain=chain, index=index: chain.calls(index))  # type: ignore[misc]
                    self._quantize(block, step)
                    with low_bit(mine) if self._sequential else contextlib.nullcontext():
                        chain.put(index, block.run())
                    self._finish(block, done)
                    step(name)

    def _quantize(self, block: Block, step: Step) -> None:
        """Apply the methods, or take what they made before the interruption."""
        if self._saved is None or not self._saved.load(self._number, block):
            for method in self._methods:
                method.apply(block)
            for layer in block.layers:
                layer.settled()
            if self._saved is not None:
                self._saved.save(self._number, block)
        for note in block.notes:
            log.warning("prepare: %s", note)
        block.release()
        self._number += 1
        step(block.name)

    def _finish(self, block: Block, done: contextlib.ExitStack) -> None:
        """Let the rest of the model see the low-bit block, where it is to."""
        for layer in block.layers if self._sequential else ():
            done.enter_context(keep_low_bit(layer))


@contextlib.contextmanager
def _quiet(model: nn.Module) -> Iterator[None]:
    """Run ``model`` without a cache of keys and values, which blocks that are run twice would write to twice, and products in full float32."""
    config, precision = getattr(model, "config", None), torch.get_float32_matmul_precision()
    cached = getattr(config, "use_cache", None)
    torch.set_float32_matmul_precision("highest")
    if cached is not None:
        config.use_cache = False  # type: ignore[union-attr]
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        if cached is not None:
            config.use_cache = cached  # type: ignore[union-attr]
