"""Switching compiled models between numbers of bits: ``lowbit.switch_bits``."""

from typing import Any

from torch import nn

from lowbit_compiler.errors import OptionError
from lowbit_compiler.recipes import SWITCHABLE
from lowbit_compiler.runtime.weights import LOADING
from lowbit_compiler.runtime.widths import WIDTHS, switch


def switch_bits(model: Any, bits: int) -> int:
    """Let the products of ``model`` read their weights in ``bits`` bits (4, 6 or 8) from the next call on; returns of how many weights.

    ``model`` is a module that was compiled with recipe "int8-switchable" and called, or holds such modules. Nothing is compiled or packed
    again: one byte is written for each packed weight, and kernels round the codes as they read them (docs/options.md). The width belongs
    to the weights: all that is compiled of them has it, now and later, and so have copies of the model. No call of the model may run
    meanwhile, or some of its products have the one width and some the other.

    Raises OptionError for another number of bits, for what is no module, and where no weight can be switched.
    """
    if isinstance(bits, bool) or bits not in WIDTHS:
        raise OptionError(f"bits takes one of {WIDTHS}, got {bits!r}")
    if not isinstance(model, nn.Module):
        raise OptionError(f"model takes a torch.nn.Module, compiled or with compiled modules in it, got {type(model).__name__}")
    with LOADING:
        switched = switch(model, bits)
    if not switched:
        raise OptionError(
            f"{type(model).__name__} has no weight whose bits can be switched: compile it with one of the recipes {', '.join(SWITCHABLE)}, "
            "call it once, and look in lowbit.last_report() which products were rewritten"
        )
    return switched
