"""Graphs that train: their linears rewritten, the rest compiled with its backward pass, and a seed drawn at every call."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, fx

from lowbit_compiler.compile.fallback import needs_gradient
from lowbit_compiler.compile.remainder import compile_remainder
from lowbit_compiler.dump import Subject, recording
from lowbit_compiler.options import Options
from lowbit_compiler.recipes.training import TrainingRecipe
from lowbit_compiler.report import Report
from lowbit_compiler.torch_internals.aot import joint_graph
from lowbit_compiler.training.rewrite import rewrite_training
from lowbit_compiler.training.rows import move, placed

log = logging.getLogger("lowbit_compiler")
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
    rewritten, report = rewrite_training(gm, examples, recipe, options)
    seed = next(reversed(rewritten.graph.find_nodes(op="placeholder"))).meta["example_value"]
    inner = compile_remainder(rewritten, [*examples, seed], options.remainder, options.mode)
    dump_training(gm, examples, rewritten, report, options)
    device = seed.device

    def call(*args: Any) -> Any:
        return inner(*args, _draw(device))

    return call, report


def _draw(device: torch.device) -> Tensor:
    """Return a seed int64 [1], another one in each process of a distributed run, also where all generators are seeded alike."""
    rank = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
    return torch.randint(rank, SEEDS + rank, (1,), device=device)


def dump_training(gm: fx.GraphModule, examples: Sequence[Any], rewritten: fx.GraphModule, report: Report, options: Options) -> None:
    """Write Dynamo's graph ``gm``, the one whose linears train, and the joint graph of forward and backward, where somebody asked to see them.

    Without the joint graph where AOTAutograd fails to trace it once more: what is trained does not depend on who looks.
    """
    rows, keys = placed(report.sites, rewritten)
    with recording(options.dump, gm, Subject(report.recipe, {}, rows), "the Dynamo graph") as record:
        if record is None:
            return
        record.add("train", rewritten, f"{sum(op == 'train_linear' for _, op in keys)} linears are ops that train")
        seed = rewritten.graph.find_nodes(op="placeholder")[-1].meta["example_value"]
        try:
            joint = joint_graph(rewritten, [*examples, seed])
        except Exception as error:
            log.warning("the dump has no joint graph: %s: %s", type(error).__name__, error)
            joint = None
        if joint is not None:
            move(rows, keys, joint)
            record.add("joint", joint, "forward and backward, as AOTAutograd traces them")
    record.finish(report)
