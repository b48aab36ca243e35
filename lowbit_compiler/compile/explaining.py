"""What would be rewritten in a model, and why the rest would not; nothing is compiled and no model is changed."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import fx

from lowbit_compiler.capture.dynamo import capture_dynamo
from lowbit_compiler.capture.localize import Localized
from lowbit_compiler.compile.fallback import declined_report, needs_gradient
from lowbit_compiler.compile.rewrite import rewrite
from lowbit_compiler.compile.training import dump_training, training_recipe
from lowbit_compiler.errors import LowbitError, WeightFreedError
from lowbit_compiler.options import Options, parse
from lowbit_compiler.recipes import DEFAULT, Recipe
from lowbit_compiler.report import Report
from lowbit_compiler.runtime.weights import any_freed
from lowbit_compiler.torch_internals.dynamo import inner
from lowbit_compiler.training.rewrite import rewrite_training


def explain(model: Callable[..., Any], *inputs: Any, recipe: str | Recipe = DEFAULT, **options: Any) -> Report:
    """Trace ``model(*inputs)`` and run the passes on every graph of it; returns one report of them all.

    The model runs once, in float. Dynamo is reset before and after, so models compiled earlier in this process compile again when they
    are called next. ``options`` are those of the backend. Raises OptionError for a bad recipe or option, and
    WeightFreedError where weights were released by ``free_weights``.
    """
    parsed = parse({"recipe": recipe, **options})
    reports: list[Report] = []

    def backend(gm: fx.GraphModule, examples: Any) -> Callable[..., Any]:
        if any_freed(examples):
            raise WeightFreedError("a float weight was released by free_weights=True, and the float model has to run; load the model anew")
        reports.append(_report(gm, examples, parsed))
        return gm.forward

    with alone():
        torch.compile(model, backend=backend)(*inputs)
    return joined((parsed.training or parsed.recipe).name, reports)


def _report(gm: fx.GraphModule, examples: Any, options: Options) -> Report:
    if (recipe := training_recipe(examples, options)) is not None:
        rewritten, report = rewrite_training(gm, examples, recipe, options)
        dump_training(gm, examples, rewritten, report, options)
        return report
    if needs_gradient(examples):
        return declined_report(capture_dynamo(gm, examples), options)
    local = Localized(gm, examples)
    return rewrite(capture_dynamo(local.gm, local.examples), options, local.examples)[1]


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Compile what is inside anew, and forget it afterwards; our own errors come out as they are."""
    torch.compiler.reset()
    try:
        yield
    except Exception as error:
        if isinstance(ours := inner(error), LowbitError):
            raise ours from None
        raise
    finally:
        torch.compiler.reset()


def joined(recipe: str, reports: Iterable[Report]) -> Report:
    """Return the reports of a model's graphs as one."""
    total = Report(recipe, graphs=0)
    for report in reports:
        total.extend(report)
    return total
