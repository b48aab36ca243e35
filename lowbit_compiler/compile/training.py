"""Graphs that train: their linears rewritten, the rest compiled with its backward pass, and a seed drawn at every call."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from lowbit_compiler.compile.fallback import needs_gradient
from lowbit_compiler.compile.remainder import compile_remainder
from lowbit_compiler.errors import LowbitError
from lowbit_compiler.options import Options
from lowbit_compiler.recipes.training import TrainingRecipe
from lowbit_compiler.report import Report
from lowbit_compiler.runtime.steps import NAMES, Steps
from lowbit_compiler.training.rewrite import rewrite_training

SEEDS = 1 << 62


def training_recipe(examples: Sequence[Any], options: Options) -> TrainingRecipe | None:
    """Return the recipe whose ops the graph gets: where it needs gradients, and where that has no recipe for evaluation."""
    recipe = options.training
    return recipe if recipe is not None and (recipe.evaluation is None or needs_gradient(examples)) else None


def compile_training(
    gm: fx.GraphModule, examples: Sequence[Any], recipe: TrainingRecipe, options: Options
) -> tuple[Callable[..., Any], Report]:
    """Rewrite Dynamo's graph and compile it; AOTAutograd traces its backward pass through the ops.

    The seed comes from torch's default generator of the graph's device, so manual_seed, fork_rng and the generators that checkpoints restore hold for it.
    """
    rewritten, steps, report = rewrite_training(gm, examples, recipe, options)
    if options.dump:
        report.notes.append("graphs that train are not dumped")
    seed = next(reversed(rewritten.graph.find_nodes(op="placeholder"))).meta["example_value"]
    given = [_like(seed, tensor) for one in steps for tensor in one.tensors]
    inner = compile_remainder(rewritten, [*examples, *given, seed], options.remainder, options.mode)
    device = seed.device

    def call(*args: Any) -> Any:
        return inner(*args, *_now(steps), torch.randint(0, SEEDS, (1,), device=device))

    return call, report


def _like(seed: Tensor, tensor: Tensor) -> Tensor:
    """Return ``tensor``, fake where the examples are."""
    mode = getattr(seed, "fake_mode", None)
    return tensor if mode is None else mode.from_tensor(tensor)  # type: ignore[no-any-return]


def _now(steps: Sequence[Steps]) -> list[Tensor]:
    """Return the step sizes as the modules have them; raises LowbitError where one has lost them."""
    found = [tensor for one in steps for tensor in one.tensors]
    if len(found) != len(NAMES) * len(steps):
        raise LowbitError("a linear has lost the step sizes that prepare_training gave it: call that again, or torch.compiler.reset()")
    return found
