"""``lowbit.prepare_training``: step sizes become parameters of a model, for recipes that learn them."""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lowbit_compiler.errors import OptionError
from lowbit_compiler.passes.plan import MIN_K, MIN_N
from lowbit_compiler.preparing.calibration import calls_of
from lowbit_compiler.recipes.training import find_training
from lowbit_compiler.runtime.formats import Operand
from lowbit_compiler.runtime.steps import SteppedLinear
from lowbit_compiler.runtime.training.plan import TrainingPlan
from lowbit_compiler.runtime.training.plans import LEARNING
from lowbit_compiler.runtime.training.steps import missing
from lowbit_compiler.runtime.treatments.treatment import at_once
from lowbit_compiler.torch_internals.dtensor import first_sharded

log = logging.getLogger("lowbit_compiler")


def prepare_training(model: nn.Module, recipe: str, data: Iterable[Any]) -> nn.Module:
    """Give the linears of ``model`` the step sizes of their activation and weight as parameters, which ``recipe`` then learns; returns ``model``.

    They are ``lowbit_x_step`` and ``lowbit_w_step`` of each ``nn.Linear``, which becomes a subclass, float32 [1]: in the state dict, and among the parameters that
    optimizers are given (LSQ, arXiv 1902.08153; arXiv 2306.11987, section 3.3, which gives them a smaller rate, and no weight decay). They
    begin at 2 mean / sqrt(7) of the magnitudes of the rotated weight, and of the rotated activations that the linear meets in ``data``:
    inputs of the model, an iterable of tensors, tuples of arguments or dicts of keyword arguments; one batch is enough. Called again, it
    sets them anew. Without it the statistic of each call is what counts; other recipes do not use them, and say so. Linears that no call
    reaches, that are too small for a recipe, share their weight with an embedding, or have a forward of their own, get none. Nor do those whose weight
    or activations are all zeros, which a warning names: a step of 0 could not learn.

    The model is in evaluation during these calls, and then as it was: no dropout, and norms of batches stay.

    Prepare a model before it is sharded. Raises OptionError for a recipe without steps to
    learn, and for data without a call that reaches a linear.
    """
    training = find_training(recipe)
    if training is None or not training.plan.learns:
        raise OptionError(f"prepare_training takes a recipe whose step sizes can be learned: {', '.join(LEARNING)}; got {recipe!r}")
    if not isinstance(model, nn.Module):
        raise OptionError(f"model takes a torch.nn.Module, got {type(model).__name__}")
    if sharded := first_sharded(model):
        raise OptionError(f"weights of the model are sharded ({sharded}); prepare the model before it is cut")
    calls = calls_of(model, data)
    linears = _linears(model)
    with torch.no_grad(), _evaluating(model), _seen(linears, training.plan) as means:
        for arguments, named in calls:
            model(*arguments, **named)
    if not means:
        raise OptionError(f"the data of prepare_training reaches no nn.Linear of {type(model).__name__} that recipe {recipe!r} trains")
    forward = training.plan.forward
    zeros: set[nn.Module] = set()
    for linear, mean in means.items():
        steps = mean.value, _step(forward.w, forward.treatment.weight(at_once, linear.weight.detach().float()))
        if any(map(missing, steps)):
            zeros.add(linear)
        else:
            SteppedLinear.give(linear, *steps)
    if zeros:
        names = ", ".join(name for name, module in model.named_modules() if module in zeros)
        log.warning(
            "the weight or the activations of %s are zeros, of which no step size is made: the statistic of each call counts", names
        )
    return model


def _linears(model: nn.Module) -> list[nn.Linear]:
    """Return the linears that are large enough and no others' subclasses, each weight once and none of an embedding."""
    seen = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    found: list[nn.Linear] = []
    for module in model.modules():
        if isinstance(module, nn.Linear) and type(module) in (nn.Linear, SteppedLinear) and id(module.weight) not in seen:
            seen.add(id(module.weight))
            found.append(module)
    return [each for each in found if each.in_features >= MIN_K and each.out_features >= MIN_N]


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Let no module be in training; set as flags, since ``eval()`` and ``train()`` of some do more."""
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, training in modes.items():
            module.training = training


class _Mean:
    """The mean step size over the rows of all calls."""

    def __init__(self) -> None:
        self._sum, self._rows = torch.zeros(1, dtype=torch.float64), 0

    def add(self, step: Tensor, rows: int) -> None:
        self._sum += rows * step.double().cpu()
        self._rows += rows

    @property
    def value(self) -> Tensor:
        return (self._sum / self._rows).float()


@contextlib.contextmanager
def _seen(linears: Iterable[nn.Linear], plan: TrainingPlan) -> Iterator[dict[nn.Linear, _Mean]]:
    """Collect the step sizes of what the linears are called with."""
    means: dict[nn.Linear, _Mean] = {}

    def see(linear: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        assert isinstance(linear, nn.Linear)
        assert plan.forward.x is not None
        rows = (*given, *named.values())[0].detach().reshape(-1, linear.in_features).float()
        if len(rows):
            means.setdefault(linear, _Mean()).add(_step(plan.forward.x, plan.forward.treatment.activation(at_once, rows)[0]), len(rows))

    handles = [linear.register_forward_pre_hook(see, with_kwargs=True) for linear in linears]
    try:
        yield means
    finally:
        for handle in handles:
            handle.remove()


def _step(operand: Operand, x: Tensor) -> Tensor:
    """Return the statistic of ``x`` float32 [R, K], as float32 [1]."""
    return operand.unit(x).float().reshape(1)
