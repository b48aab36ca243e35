"""The command ``lowbit``. Imports are inside the commands: help must not pay for torch."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lowbit_compiler.cli.arguments import Dynamic, Function, Ignore, PlanName, RecipeName, console, load_function, names_to_ignore, stages
from lowbit_compiler.cli.debug import debug
from lowbit_compiler.errors import LowbitError
from lowbit_compiler.recipe_names import DEFAULT

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Compile PyTorch models to low precision.", pretty_exceptions_enable=False
)
app.add_typer(debug, name="debug")

MEASURE = "add each product's error and its certificate, in float64"


@app.command()
def demo(
    question: Annotated[
        str | None, typer.Option(help="what to ask the model; with --train, a sentence to tell the topic of", show_default=False)
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="default int8, with --train int4-training", show_default=False)] = None,
    dtype: Annotated[str, typer.Option(help="float dtype of the model: bfloat16 or float32")] = "bfloat16",
    compare: Annotated[bool, typer.Option("--compare", help="add Inductor and the other recipes, in one interleaved run")] = False,
    all_sites: Annotated[bool, typer.Option("--all-sites", help="print a row for every product and softmax")] = False,
    train: Annotated[
        bool, typer.Option("--train", help="instead: fine-tune a sentence encoder in float and with a recipe, side by side")
    ] = False,
) -> None:
    """Compile SmolLM2-135M-Instruct, answer a question, and show what was done; or fine-tune all-MiniLM-L6-v2, and ask that."""
    if train:
        from lowbit_compiler.demo import train as training

        training.run(training.SENTENCES if question is None else [question], recipe or training.RECIPE)
    else:
        from lowbit_compiler.demo.run import QUESTION, run

        run(question=question or QUESTION, recipe=recipe or DEFAULT, dtype=dtype, compare=compare, all_sites=all_sites)


@app.command()
def explain(
    function: Function,
    recipe: RecipeName = "int8",
    plan: PlanName = "measured",
    ignore: Ignore = (),  # type: ignore[assignment]
    measure: Annotated[bool, typer.Option("--measure", help=MEASURE)] = False,
    json: Annotated[bool, typer.Option("--json", help="plain data")] = False,
) -> None:
    """Print every product and softmax of a model with its decision and reason; nothing is compiled."""
    import torch
    from rich.console import Console

    from lowbit_compiler.options import parse

    options = parse({"recipe": recipe})
    if measure:
        from lowbit_compiler.debug import measure as run
        from lowbit_compiler.debug.switched import require_inference

        require_inference(options)  # before the model is loaded
    else:
        from lowbit_compiler.compile.explaining import explain as run

    model, inputs = load_function(function)
    with torch.set_grad_enabled(options.training is not None):
        report = run(model, *inputs, recipe=recipe, plan=plan, ignore=names_to_ignore(ignore))
    if json:
        print(report.to_json())
    elif sys.stdout.isatty():
        Console().print(report)
    else:
        print(report)


@app.command()
def dump(
    function: Function,
    out: Annotated[Path, typer.Option(help="folder to write to")] = Path("lowbit_dump"),
    recipe: RecipeName = "int8",
    plan: PlanName = "measured",
    region: Annotated[str, typer.Option(help="module, site or node to draw as a picture (DOT, and SVG where Graphviz is)")] = "",
    measure: Annotated[bool, typer.Option("--measure", help=MEASURE)] = False,
) -> None:
    """Write every stage of the rewriting: an HTML page to look around in, typed text, diffs and JSON; nothing is compiled."""
    from lowbit_compiler.cli.dump import dump as run

    model, inputs = load_function(function)
    with stages() as progress:
        report, files = run(model, inputs, out, recipe=recipe, plan=plan, region=region, measure=measure, progress=progress)
    print(report.summary())
    for file, what in files:
        print(f"{file}  {what}")


@app.command()
def plan(
    function: Function,
    out: Annotated[Path, typer.Option(help="JSON file to write")] = Path("plan.json"),
    recipe: RecipeName = "int8",
    ignore: Ignore = (),  # type: ignore[assignment]
) -> None:
    """Time what a model computes, in float and in low precision, and write the times to a file; nothing is compiled.

    With options={"plan": "plan.json"}, or --plan plan.json here, the file decides what is rewritten, and nothing is timed.
    """
    from lowbit_compiler.cli.plan import check, decisions
    from lowbit_compiler.cli.plan import plan as run

    names = names_to_ignore(ignore)
    check(out, recipe, names)
    model, inputs = load_function(function)
    with stages() as progress:
        report = run(model, inputs, out, recipe=recipe, ignore=names, progress=progress)
    console().print(decisions(report.sites))
    for note in report.notes:
        print(f"note: {note}")
    print(f"{out}  {len(report.timed)} calls with the seconds of each candidate")


@app.command()
def profile(
    function: Function,
    recipe: RecipeName = "int8",
    plan: PlanName = "measured",
    mode: Annotated[str | None, typer.Option(help="of torch.compile: reduce-overhead, max-autotune ...")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="timed runs, and as many recorded ones")] = 20,
    dump: Annotated[Path | None, typer.Option(help="folder for a dump whose page shows the times", show_default=False)] = None,
    json: Annotated[bool, typer.Option("--json", help="plain data")] = False,
) -> None:
    """Compile and run a model, and show the time of every site and kernel next to what it needs at least."""
    from lowbit_compiler.dump.files import attach, folders
    from lowbit_compiler.options import parse
    from lowbit_compiler.profiling.profile import profile as run

    options = {} if dump is None else {"dump": str(dump)}
    parse({"recipe": recipe, "plan": plan, **options}, mode)  # before the model is loaded
    model, inputs = load_function(function)
    before = [] if dump is None else folders(dump)
    with stages() as progress:
        result = run(model, *inputs, recipe=recipe, plan=plan, mode=mode, rounds=rounds, progress=progress, **options)
    if dump is not None:
        attach(folders(dump, before), result.report)
    if json:
        print(result.to_json())
    else:
        console().print(result)


@app.command("export-onnx")
def export_onnx(
    function: Function,
    out: Annotated[Path, typer.Option(help="file to write")] = Path("model.onnx"),
    recipe: RecipeName = "int8",
    form: Annotated[
        str, typer.Option(help="integer: scales written out, exact integer products; qdq: Q/DQ around float products")
    ] = "integer",
    opset: Annotated[int, typer.Option(help="21 to 25")] = 21,
    dynamic: Dynamic = (),  # type: ignore[assignment]
    ignore: Ignore = (),  # type: ignore[assignment]
    llm_int8_threshold: Annotated[float | None, typer.Option("--llm-int8-threshold", help="of the outlier columns; default 6.0")] = None,
    group_size: Annotated[int | None, typer.Option("--group-size", help="of scales in groups: 32, 64 or 128; default 64")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="run the file in ONNX Runtime, on other inputs too, and compare it with PyTorch")
    ] = False,
) -> None:
    """Write a model to an ONNX file in low precision, and print every product with its decision."""
    from lowbit_compiler.capture.shapes import parse_dynamic
    from lowbit_compiler.exits.onnx.export import export_onnx as run

    shapes = parse_dynamic(dynamic)
    options = {"llm_int8_threshold": llm_int8_threshold, "group_size": group_size}
    model, inputs = load_function(function)
    with stages() as progress:
        report = run(
            model,
            inputs,
            out,
            recipe=recipe,
            form=form,
            opset=opset,
            dynamic_shapes=shapes,
            ignore=names_to_ignore(ignore),
            verify=verify,
            progress=progress,
            **{name: value for name, value in options.items() if value is not None},
        )
    console().print(report)


@app.command("verify-onnx")
def verify_onnx(
    file: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="a file that export-onnx wrote")],
    function: Function,
    tolerance: Annotated[float | None, typer.Option(help="largest difference against the largest value of the row or column")] = None,
) -> None:
    """Run an exported file in ONNX Runtime and compare it with the same arithmetic in PyTorch; status 1 where they differ.

    It runs on the function's inputs, and on others made from them with one seed: of other sizes where these may change, floats drawn
    column by column, integers from the same range or from the rows of their embedding; masks stay masks.
    """
    from lowbit_compiler.exits.onnx.export import verify_onnx as run

    model, inputs = load_function(function)
    with stages() as progress:
        result = run(file, model, inputs, tolerance=tolerance, progress=progress)
    console().print(result)
    raise typer.Exit(0 if result.agrees else 1)


@app.command("export-tensorrt")
def export_tensorrt(
    function: Function,
    out: Annotated[Path, typer.Option(help="file to write")] = Path("model.engine"),
    recipe: RecipeName = "int8",
    capability: Annotated[
        list[str], typer.Option(help="compute capability of the devices that it is for; repeat for more; default 8.9", show_default=False)
    ] = (),  # type: ignore[assignment]
    dynamic: Dynamic = (),  # type: ignore[assignment]
    ignore: Ignore = (),  # type: ignore[assignment]
    group_size: Annotated[int | None, typer.Option("--group-size", help="of scales in groups: 32, 64 or 128; default 64")] = None,
) -> None:
    """Build a model into an engine of TensorRT-RTX in low precision, without a GPU, and print every product with its decision.

    Sizes that may change need a largest one: --dynamic input_ids:0=batch:8,1=length:512
    """
    from lowbit_compiler.capture.shapes import parse_dynamic
    from lowbit_compiler.exits.tensorrt.export import export_tensorrt as run

    shapes = parse_dynamic(dynamic)
    options: dict[str, Any] = {"capabilities": tuple(capability) or None, "group_size": group_size}
    model, inputs = load_function(function)
    with stages() as progress:
        report = run(
            model,
            inputs,
            out,
            recipe=recipe,
            dynamic_shapes=shapes,
            ignore=names_to_ignore(ignore),
            progress=progress,
            **{name: value for name, value in options.items() if value is not None},
        )
    console().print(report)


@app.command()
def doctor() -> None:
    """Show torch, the native library, instruction sets, which kernel each op gets, and the environment variables."""
    from lowbit_compiler.cli.doctor import doctor as run

    console(140).print(run())


def main() -> None:
    """Run the command line: a user's mistake is one line and status 2, an interrupt status 130."""
    try:
        sys.exit(app(standalone_mode=False))  # typer returns 130 after an interrupt, None after success
    except (LowbitError, FileNotFoundError) as error:
        sys.exit(_fail(str(error)))
    except (ValueError, OSError) as error:
        if not str(error).startswith("LOWBIT_"):  # those that name a variable come from loading the library
            raise
        sys.exit(_fail(str(error)))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of the command line itself
            sys.exit(_fail(error.format_message()) if error.format_message() else 2)  # no message: the help was printed
        raise


def _fail(message: str) -> int:
    print(f"lowbit: {message}", file=sys.stderr)
    return 2
