"""In how many bits products read the weights of a module, where these can be switched: said at the module, for whatever packs them later."""

from typing import Any

import torch
from torch import Tensor, nn

from lowbit_compiler.runtime.attached import Attached
from lowbit_compiler.runtime.formats import SWITCHABLE, Format
from lowbit_compiler.runtime.formats.operand import op_name
from lowbit_compiler.runtime.weights import STORE, where

WIDTHS = tuple(sorted({width for format, _ in SWITCHABLE for width in format.widths}))
_PACKERS = {f"lowbit.{op_name('pack', *kind)}.": kind[0] for kind in SWITCHABLE}


class Width(Attached):
    """The width in force for the parameters that one module holds itself."""

    attribute = "_lowbit_width"

    def __init__(self, module: nn.Module, bits: int) -> None:
        self.bits = bits
        super().__init__(module)


def known() -> dict[Any, int]:
    """Return the widths that were set in this process, by where the weight is in memory; what was set last counts."""
    found = ((width, width.module) for width in Width.everywhere())
    return {where(each): width.bits for width, module in found if module is not None for each in _tensors(module)}


def switch(model: nn.Module, bits: int) -> int:
    """Let products read the weights of ``model`` in ``bits`` bits from now on; returns how many of its weights are packed so that they can be."""
    holders = _holders(model)
    mine = {where(tensor) for module in holders for tensor in _tensors(module)}
    packed = [found for found in STORE.made_of(mine) if (format := _format(found.computation)) and bits in format.widths]
    if packed:
        for module in holders:
            Width(module, bits).attach()
    for found in packed:
        format = _format(found.computation)
        assert format is not None
        assert format.panels is not None
        format.panels.switch(found.values[0], bits)
    return len({source for found in packed for source in found.sources if not _scales(source)})


def _scales(source: Any) -> bool:
    """Return whether what is at ``source`` is no weight but the scales [N, 1] beside the codes of one, as checkpoints have them."""
    *_, shape, _, _, _ = source
    return tuple(shape[1:]) == (1,)


def _format(computation: str) -> type[Format] | None:
    """Return the format that a constant is packed in, of those that can be switched."""
    return next((format for packer, format in _PACKERS.items() if packer in computation), None)


def _holders(model: nn.Module) -> list[nn.Module]:
    """Return the modules in ``model`` that hold tensors themselves; ``modules()`` takes longer than all else that a switch does."""
    found = {id(model): model}
    todo = [model]
    while todo:
        new = {id(child): child for child in todo.pop()._modules.values() if child is not None and id(child) not in found}
        found |= new
        todo += new.values()
    return [module for module in found.values() if module._parameters or module._buffers]


def _tensors(module: nn.Module) -> list[Tensor]:
    held = (*module._parameters.values(), *module._buffers.values())
    return [tensor for tensor in held if tensor is not None and tensor.layout is torch.strided]
