"""Dynamo's graph with its linears rewritten to ``lowbit::train_linear``, and the report of it."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from lowbit_compiler.capture.names import Names
from lowbit_compiler.capture.products import name_modules
from lowbit_compiler.capture.running import find_names
from lowbit_compiler.options import Options
from lowbit_compiler.passes.contract import PassContext, Target
from lowbit_compiler.passes.plan import check_patterns, ignored, output_head, too_small
from lowbit_compiler.passes.site import Declined, Reason, Site
from lowbit_compiler.recipes.training import TrainingRecipe
from lowbit_compiler.report import Report
from lowbit_compiler.training.codes import Codes
from lowbit_compiler.training.linears import STEPPED, Region, copied_region, find_linears, operands, unneeded
from lowbit_compiler.training.rows import rows

SEED = "lowbit_seed"


def rewrite_training(
    gm: fx.GraphModule, examples: Sequence[Any], recipe: TrainingRecipe, options: Options
) -> tuple[fx.GraphModule, Report]:
    """Return a copy of Dynamo's graph in which the linears are ops that train, with the seed as its last input, and the report.

    Before and after, of a graph and of each body that it checkpoints::

        %y = F.linear(%x, %w, %bias)

        %q = lowbit.train_quantize(%x.detach(), 8, False)
        %r = lowbit.train_linear(%x, %w, %bias, %lowbit_seed, 3, "int8-training", torch.float32, None, None, [%q0, %q1])
        %y = getitem(%r, 0)

    ``%q`` is there once for all linears of ``%x``.

    Raises OptionError where ``ignore`` names nothing.
    """
    region = copied_region(gm, examples)
    names = find_names()
    for _, node in region.nodes():
        name_modules(node, names)
    found = find_linears(region, {key: each[0] for key, each in names.tensors.items()})
    _decide(region, found, names, options)
    seeds = _with_seeds(region)
    codes = Codes(region, recipe.plan)
    report = Report(recipe.name, notes=_notes([site.node for _, site in found if site.reason is None], recipe))
    for inner, site in found:
        reasons = unneeded(inner, site.node, recipe.plan.learns)
        if site.reason is None:
            _replace(inner, site, seeds[id(inner.gm)], recipe, codes)
        report.sites += rows(site, recipe.plan, reasons)
    for inner in region.each():
        inner.gm.recompile()
    return region.gm, report


def _notes(linears: Sequence[fx.Node], recipe: TrainingRecipe) -> list[str]:
    count = sum(node.target is STEPPED for node in linears)
    end = "are learned" if recipe.plan.learns else f"are not used: {recipe.name} learns none"
    return [f"step sizes of {count} linears (lowbit.prepare_training) {end}"] * bool(count)


def _decide(region: Region, found: Sequence[tuple[Region, Site]], names: Names, options: Options) -> None:
    ctx = PassContext(
        options.recipe,
        Target(),
        {},
        ignore=options.ignore,
        known_names=names.known,
        other_names=names.others,
        all_known=names.whole,
        sites=[site for _, site in found],
    )
    check_patterns(ctx)
    head = output_head(region.gm, [site for inner, site in found if inner is region])
    for site in ctx.sites:
        if site.reason is None and (why := _declined(ctx, site, site in head)):
            site.decline(*why)


def _declined(ctx: PassContext, site: Site, head: bool) -> Declined | None:
    pattern = ignored(ctx, site.module, *site.found.parameters)
    if pattern is not None:
        return Reason.FILTERED, f"ignore {pattern!r}"
    if head:
        return Reason.OUTPUT_HEAD, "recipes that train leave it in float"
    return too_small(site.found)


def _with_seeds(region: Region) -> dict[int, fx.Node]:
    """Give every graph the seed as its last input, and every call of a body the seed as its last operand; returns those inputs."""
    seeds: dict[int, fx.Node] = {}
    for inner in region.each():
        inputs = inner.gm.graph.find_nodes(op="placeholder")
        with inner.gm.graph.inserting_before(next(node for node in inner.gm.graph.nodes if node.op != "placeholder")):
            seeds[id(inner.gm)] = seed = inner.gm.graph.placeholder(SEED)
        seed.meta["example_value"] = _example([node.meta.get("example_value") for node in inputs])
    for inner in region.each():
        for call in inner.bodies:
            call.args = (*call.args, seeds[id(inner.gm)])
    return seeds


def _example(values: Sequence[Any]) -> Tensor:
    """Return a seed as the other inputs are: on the device of the first tensor, fake where that is."""
    first = next(value for value in values if isinstance(value, Tensor))
    seed = torch.zeros(1, dtype=torch.int64, device=first.device)
    mode = getattr(first, "fake_mode", None)
    return seed if mode is None else mode.from_tensor(seed)


def _replace(region: Region, site: Site, seed: fx.Node, recipe: TrainingRecipe, codes: Codes) -> None:
    node = site.node
    x, weight, bias, *steps = operands(node)
    dtype = node.meta["example_value"].dtype
    with region.gm.graph.inserting_before(node):
        args = (x, weight, bias, seed, site.found.index, recipe.name, dtype, *steps, codes.of(x, node))
        call = region.gm.graph.call_function(torch.ops.lowbit.train_linear.default, args)
        result = region.gm.graph.call_function(operator.getitem, (call, 0))
    for new in (call, result):
        new.meta.update({key: node.meta[key] for key in ("nn_module_stack", "stack_trace") if key in node.meta})
    result.meta["example_value"] = node.meta["example_value"]
    node.replace_all_uses_with(result)
    region.gm.graph.erase_node(node)
    site.move(result)
