"""The commands below ``lowbit debug``: which layer hurts accuracy, and which pass is at fault."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from lowbit_compiler.cli_arguments import Function, Ignore, PlanName, RecipeName, find_function, load_samples, names_to_ignore, share

debug = typer.Typer(no_args_is_help=True, help="Find the layer that hurts accuracy, or the pass that is at fault.")


@debug.command()
def accuracy(
    function: Function,
    recipe: RecipeName = "int8",
    plan: PlanName = "measured",
    ignore: Ignore = (),  # type: ignore[assignment]
    budget: Annotated[
        str, typer.Option(help="perplexity (outputs with a loss) may grow by so much; else relative error of the output")
    ] = "0.3%",
    metric: Annotated[
        str | None, typer.Option(metavar="FILE.py:FUNCTION", help="takes the output, returns a number; lower is better")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write: options for torch.compile, with the list to ignore")] = None,
    remainder: Annotated[str, typer.Option(help="inductor or eager: what runs the rest of the graph in the final check")] = "inductor",
    all_layers: Annotated[bool, typer.Option("--all-layers", help="print every layer, not only the 20 worst")] = False,
) -> None:
    """Rank layers by the error that low precision makes in each, and find the fewest to leave in float for a budget.

    FUNCTION returns (model, inputs): a tuple, a dict of named inputs (with labels, the budget limits the perplexity), or a list of these.
    Status 1 where the budget is not met.
    """
    limit = share(budget)
    names = names_to_ignore(ignore)
    measure = None if metric is None else find_function(metric)
    from rich.console import Console

    from lowbit_compiler.debug import accuracy as run
    from lowbit_compiler.debug.show import SHOWN, shown, stages
    from lowbit_compiler.dump import write

    model, samples = load_samples(function)
    options = {} if remainder == "inductor" else {"remainder": remainder}
    with stages() as progress:
        result = run(
            model,
            samples,
            recipe=recipe,
            plan=plan,
            ignore=names,
            budget=limit,
            metric=measure,
            progress=progress,
            **options,
        )
    Console(width=None if sys.stdout.isatty() else 180).print(shown(result, len(result.layers) if all_layers else SHOWN), crop=False)
    if out is not None and result.reached is not None:
        write(out, result.to_json() + "\n")
    raise typer.Exit(0 if result.met else 1)
