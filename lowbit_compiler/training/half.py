"""Half fine-tuning: in each round one half of the weights learns, and the other costs no dW (HFT, arXiv 2404.18466)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lowbit_compiler.errors import OptionError
from lowbit_compiler.passes.plan import matches
from lowbit_compiler.runtime.steps import SteppedLinear

MARK = "_lowbit_half"
"""Of a parameter that a round has frozen: the next may let it learn again; what the user has frozen stays so."""


def half_fine_tuning(model: nn.Module, categories: Mapping[str, Sequence[str]] | None = None, seed: int = 0) -> list[str]:
    """Freeze half of the linears' weights of ``model``, let the others learn, and return the names of the frozen ones.

    A category is a name with the patterns of its modules, as the option ``ignore`` takes them; without any, linears of one name in
    different blocks (``q_proj``) are one. Of each category one half, rounded down, is drawn by ``seed``, so that all kinds of layers keep
    learning in some blocks. Call it again with another seed for the next round: the compiled model is compiled anew for it, as which
    weights need gradients is a part of a graph. A step size of a weight (``prepare_training``) is frozen and learns with it, since its gradient costs
    the same product; that of the activation, which dX has, learns on.

    Raises OptionError where a category names no linear.
    """
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    free = {name: module for name, module in linears.items() if _ours(module.weight)}
    generator, frozen = torch.Generator().manual_seed(seed), []
    for category, names in _categories(free, categories).items():
        if not names:
            raise OptionError(f"half_fine_tuning: category {category!r} names no linear that learns; there are {', '.join(free)}")
        order = torch.randperm(len(names), generator=generator).tolist()
        frozen += [names[i] for i in order[: len(names) // 2]]
    for name, module in free.items():
        for parameter in _with_step(module):
            _learn(parameter, name not in frozen)
    return sorted(frozen)


def _categories(free: Mapping[str, nn.Linear], given: Mapping[str, Sequence[str]] | None) -> dict[str, list[str]]:
    if given is not None:
        return {category: [name for name in free if any(matches(each, name) for each in patterns)] for category, patterns in given.items()}
    found: dict[str, list[str]] = {}
    for name in free:
        found.setdefault(name.rpartition(".")[2], []).append(name)
    return found


def _ours(parameter: Tensor) -> bool:
    """Return whether the parameter learns, or would if no round had frozen it."""
    return parameter.requires_grad or hasattr(parameter, MARK)


def _with_step(linear: nn.Linear) -> list[Tensor]:
    """Return the weight, and its step size where that is a parameter that the user has not frozen."""
    step = [linear.lowbit_w_step] if isinstance(linear, SteppedLinear) and _ours(linear.lowbit_w_step) else []
    return [linear.weight, *step]


def _learn(parameter: Tensor, learns: bool) -> None:
    parameter.requires_grad_(learns)
    if learns:
        parameter.__dict__.pop(MARK, None)
    else:
        setattr(parameter, MARK, True)
        parameter.grad = None  # an optimizer would go on with it
