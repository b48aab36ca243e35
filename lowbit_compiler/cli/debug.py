"""The commands below ``lowbit debug``: which layer hurts accuracy, which pass is at fault, and how many bits each layer needs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lowbit_compiler.cli.arguments import (
    TOLERANCE,
    Function,
    Ignore,
    PlanName,
    RecipeName,
    console,
    find_function,
    load_function,
    load_samples,
    names_to_ignore,
    number_of_bytes,
    share,
    stages,
)

debug = typer.Typer(
    no_args_is_help=True, help="Find the layer that hurts accuracy, the pass that is at fault, or the bits that each layer needs."
)


@debug.command()
def bisect(
    function: Function,
    recipe: RecipeName = "int8",
    plan: PlanName = "measured",
    tolerance: Annotated[float, typer.Option(help="dB; an output with less SQNR to the float model's is wrong")] = TOLERANCE,
    remainder: Annotated[str, typer.Option(help="inductor, or eager: do not look beyond the passes")] = "inductor",
    isolate: Annotated[bool, typer.Option("--isolate", help="each attempt in a process of its own, for a CPU model that kills it")] = False,
    out: Annotated[Path, typer.Option(help="folder for the graph before and after")] = Path("lowbit_bisect"),
) -> None:
    """Narrow a wrong, failing or crashing compilation to one pass and one site; status 1 where something is wrong."""
    import torch

    from lowbit_compiler.debug.bisect import Bench, check_tolerance, search
    from lowbit_compiler.debug.isolated import Isolated
    from lowbit_compiler.options import parse, writable

    options = parse({"recipe": recipe, "plan": plan, "remainder": remainder})
    check_tolerance(tolerance)
    writable("--out", str(out))
    threads = torch.get_num_threads()
    if isolate:
        torch.set_num_threads(1)  # forks do not copy OpenMP's threads, so there must be none
    model, inputs = load_function(function)
    with stages() as progress, torch.no_grad():
        progress("running the float model")
        bench = Isolated(model, inputs, threads) if isolate else Bench(model, inputs)
        finding = search(bench, options, tolerance, progress)
    lines = console(140)
    lines.print(finding)
    if finding.pass_name:
        written = finding.write(out)
        lines.print(f"before and after: {', '.join(map(str, written))}", soft_wrap=True)
        extra = " --isolate" if isolate else ""
        again = f"lowbit debug bisect {function} --recipe {recipe} --plan {plan} --tolerance {tolerance:g} --remainder {remainder}{extra}"
        lines.print(f"to see it again: {finding.command(again)}", soft_wrap=True)
    raise typer.Exit(1 if finding.failed else 0)


@debug.command()
def accuracy(
    ctx: typer.Context,
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
    """Rank layers by the error that low precision makes in each, and find a short list to leave in float for a budget.

    With a recipe that trains: bias, variance and cosine of each layer's gradients against float64 ones; no --budget, --metric, --plan or --remainder.

    FUNCTION returns (model, inputs): a tuple, a dict of named inputs (with labels, the budget limits the perplexity), or a list of these.
    Status 1 where the budget is not met, which also writes no file, or where a kernel or a packed weight is wrong.
    """
    limit = share(budget)
    names = names_to_ignore(ignore)
    measure = None if metric is None else find_function(metric)
    from lowbit_compiler.debug import accuracy as run
    from lowbit_compiler.debug.show import SHOWN, bar, shown
    from lowbit_compiler.options import parse, writable_file
    from lowbit_compiler.runtime.files import write

    rest = {} if remainder == "inductor" else {"remainder": remainder}
    options: dict[str, Any] = {"recipe": recipe, "plan": plan, "ignore": names, **rest}
    trains = parse(options).training is not None  # before the model is loaded
    if trains:
        _refuse_of_inference(ctx, recipe)
    if out is not None:
        writable_file("--out", out, parents=True)
    model, samples = load_samples(function)
    if trains:
        _gradients(model, samples, options, out, all_layers)
        return
    with bar() as progress:
        result = run(model, samples, budget=limit, metric=measure, progress=progress, **options)
    console().print(shown(result, len(result.layers) if all_layers else SHOWN), crop=False)
    if out is not None and result.met:
        write(out, result.to_json() + "\n")
    raise typer.Exit(0 if result.met and not any(layer.broken for layer in result.layers) else 1)


def _refuse_of_inference(ctx: typer.Context, recipe: str) -> None:
    for option in ("budget", "metric", "plan", "remainder"):
        source = ctx.get_parameter_source(option)
        if source is not None and source.name != "DEFAULT":
            raise typer.BadParameter(f"recipe {recipe!r} trains, and gradients have no {option}", param_hint=f"--{option}")


def _gradients(model: Any, samples: Any, options: dict[str, Any], out: Path | None, all_layers: bool) -> None:
    """Print the gradients of each layer, and write them to ``out``."""
    from lowbit_compiler.debug import gradients
    from lowbit_compiler.debug.show import SHOWN, bar
    from lowbit_compiler.debug.show import gradients as shown
    from lowbit_compiler.runtime.files import write

    with bar() as progress:
        found = gradients(model, samples, progress=progress, **options)
    console().print(shown(found, None if all_layers else SHOWN), crop=False)
    if out is not None:
        write(out, found.to_json() + "\n")


@debug.command()
def widths(
    function: Function,
    budget: Annotated[str, typer.Option(help="what the output may lose, as --metric says: 0.015 or 1.5%", show_default=False)] = "",
    most_bytes: Annotated[str, typer.Option("--bytes", help="instead: bytes for all weights, such as 60MB", show_default=False)] = "",
    metric: Annotated[
        str, typer.Option(help="kl: divergence of what the output's logits stand for, in nats; error: relative error of the output")
    ] = "kl",
    recipe: Annotated[str, typer.Option(help="what says everything but the formats of weights")] = "int4-weight-only",
    ignore: Ignore = (),  # type: ignore[assignment]
    out: Annotated[Path, typer.Option(help="recipe to write, for --recipe and options={'recipe': ...}")] = Path("recipe.toml"),
    all_layers: Annotated[bool, typer.Option("--all-layers", help="print every layer, not only the 20 that lose most")] = False,
) -> None:
    """Choose a number of bits for each layer's weights: the fewest bytes within a budget, or the least loss within so many bytes.

    FUNCTION returns (model, inputs): a tuple, a dict of named inputs, or a list of these; the first shows what each layer alone does in each format,
    all of them judge the whole model. Status 1 where the budget is not met, which also writes no file.
    """
    limit = share(budget) if budget else None
    size = number_of_bytes(most_bytes) if most_bytes else None
    names = names_to_ignore(ignore)
    from lowbit_compiler.debug.show import bar
    from lowbit_compiler.debug.show_widths import SHOWN, shown
    from lowbit_compiler.debug.widths import check, require_recipe_file
    from lowbit_compiler.debug.widths import widths as run
    from lowbit_compiler.runtime.files import write

    asked: dict[str, Any] = {"budget": limit, "most_bytes": size, "metric": metric, "recipe": recipe, "ignore": names}
    check(**asked)  # before the model is loaded
    require_recipe_file("--out", out)
    model, samples = load_samples(function)
    with bar() as progress:
        result = run(model, samples, progress=progress, **asked)
    console().print(shown(result, len(result.chosen) if all_layers else SHOWN), crop=False)
    if result.met:
        write(out, result.to_toml())
        print(f"{out}  a recipe: torch.compile(model, backend=\"lowbit\", options={{'recipe': {str(out)!r}}})")
    raise typer.Exit(0 if result.met else 1)
