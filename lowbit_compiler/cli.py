"""The command ``lowbit``. Imports are inside the commands: help must not pay for torch."""

import contextlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from lowbit_compiler.cli_debug import debug
from lowbit_compiler.errors import LowbitError, OptionError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Compile PyTorch models to low precision.", pretty_exceptions_enable=False
)
app.add_typer(debug, name="debug")

Function = Annotated[str, typer.Argument(metavar="FILE.py:FUNCTION", help="a function that returns (model, example inputs)")]
RecipeName = Annotated[str, typer.Option(help="int8, llm-int8, int8-vector, int8-weight-only or int4-weight-only")]
Dynamic = Annotated[
    list[str], typer.Option(help="sizes that may change, by argument: x:0=batch,1=length; repeat for more arguments", show_default=False)
]
PlanName = Annotated[str, typer.Option("--plan", help="measured: rewrite what is faster here; always: whatever the recipe covers")]


def load_function(spec: str) -> tuple[Any, tuple[Any, ...]]:
    """Return the model and the tuple of example inputs that ``FILE.py:FUNCTION`` gives; raises OptionError."""
    file, colon, name = spec.rpartition(":")
    path = Path(file)
    if not colon or path.suffix != ".py" or not name.isidentifier():
        raise OptionError(f"expected FILE.py:FUNCTION, got {spec!r}")
    if not path.is_file():
        raise OptionError(f"no such file: {file!r}")
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    _user_code(file, lambda: module_spec.loader.exec_module(module))  # type: ignore[union-attr]
    function = getattr(module, name, None)
    if not callable(function):
        accepted = [key for key, item in vars(module).items() if callable(item) and not key.startswith("_")]
        raise OptionError(f"{file} has no function {name!r}; it has: {', '.join(accepted) or 'none'}")
    result = _user_code(spec, function)
    if not (isinstance(result, tuple) and len(result) == 2 and callable(result[0]) and isinstance(result[1], (tuple, list))):
        raise OptionError(f"{spec} must return (model, tuple of inputs), got {type(result).__name__}")
    return result[0], tuple(result[1])


def _user_code(what: str, run: Callable[[], Any]) -> Any:
    try:
        return run()
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise OptionError(f"{what} raised {type(error).__name__}: {error} ({at.filename}, line {at.lineno})") from error


@app.command()
def demo(
    question: Annotated[str, typer.Option(help="what to ask the model")] = "What is the capital of France? Answer in one sentence.",
    recipe: RecipeName = "int8",
    dtype: Annotated[str, typer.Option(help="float dtype of the model: bfloat16 or float32")] = "bfloat16",
    compare: Annotated[bool, typer.Option("--compare", help="add Inductor and the other recipes, in one interleaved run")] = False,
    all_sites: Annotated[bool, typer.Option("--all-sites", help="print a row for every product and softmax")] = False,
) -> None:
    """Compile SmolLM2-135M-Instruct, answer a question, and show what was done."""
    from lowbit_compiler.demo.run import run

    run(question=question, recipe=recipe, dtype=dtype, compare=compare, all_sites=all_sites)


@app.command()
def explain(
    function: Function,
    recipe: RecipeName = "int8",
    plan: PlanName = "measured",
    json: Annotated[bool, typer.Option("--json", help="plain data")] = False,
) -> None:
    """Print every product and softmax of a model with its decision and reason; nothing is compiled."""
    import torch
    from rich.console import Console

    from lowbit_compiler.explaining import explain as run

    model, inputs = load_function(function)
    with torch.no_grad():
        report = run(model, *inputs, recipe=recipe, plan=plan)
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
) -> None:
    """Write every stage of the rewriting: an HTML page to look around in, typed text, diffs and JSON; nothing is compiled."""
    from lowbit_compiler.dump.command import dump as run

    model, inputs = load_function(function)
    with _stages() as progress:
        report, files = run(model, inputs, out, recipe=recipe, plan=plan, region=region, progress=progress)
    print(report.summary())
    for file, what in files:
        print(f"{file}  {what}")


@app.command("export-onnx")
def export_onnx(
    function: Function,
    out: Annotated[Path, typer.Option(help="file to write")] = Path("model.onnx"),
    recipe: RecipeName = "int8",
    form: Annotated[
        str, typer.Option(help="integer: scales written out, exact integer products; qdq: Q/DQ around float products")
    ] = "integer",
    opset: Annotated[int, typer.Option(help="21, 22 or 23")] = 21,
    dynamic: Dynamic = (),  # type: ignore[assignment]
    ignore: Annotated[list[str], typer.Option(help="name or re: pattern of a module to leave in float; repeat for more")] = (),  # type: ignore[assignment]
    verify: Annotated[bool, typer.Option("--verify", help="run the file in ONNX Runtime and compare it with PyTorch")] = False,
) -> None:
    """Write a model to an ONNX file in low precision, and print every product with its decision."""
    from rich.console import Console

    from lowbit_compiler.onnx.export import export_onnx as run
    from lowbit_compiler.onnx.shapes import parse_dynamic

    model, inputs = load_function(function)
    shapes = parse_dynamic(dynamic, model, inputs)
    with _stages() as progress:
        report = run(
            model,
            inputs,
            out,
            recipe=recipe,
            form=form,
            opset=opset,
            dynamic_shapes=shapes,
            ignore=list(ignore),
            verify=verify,
            progress=progress,
        )
    Console(width=None if sys.stdout.isatty() else 180).print(report)


@app.command("verify-onnx")
def verify_onnx(
    file: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="a file that export-onnx wrote")],
    function: Function,
    dynamic: Dynamic = (),  # type: ignore[assignment]
    tolerance: Annotated[float | None, typer.Option(help="largest difference against the largest value of an output")] = None,
) -> None:
    """Run an exported file in ONNX Runtime and compare it with the same arithmetic in PyTorch; status 1 where they differ."""
    from rich.console import Console

    from lowbit_compiler.onnx.export import verify_onnx as run
    from lowbit_compiler.onnx.shapes import parse_dynamic

    model, inputs = load_function(function)
    with _stages() as progress:
        result = run(file, model, inputs, dynamic_shapes=parse_dynamic(dynamic, model, inputs), tolerance=tolerance, progress=progress)
    Console(width=None if sys.stdout.isatty() else 180).print(result)
    raise typer.Exit(0 if result.agrees else 1)


@contextlib.contextmanager
def _stages() -> Iterator[Callable[[str], None]]:
    """Show the stage of long work, on the error stream."""
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield lambda stage: status.update(stage)


@app.command()
def doctor() -> None:
    """Show torch, the native library, instruction sets, which kernel each op gets, and the environment variables."""
    from rich.console import Console

    from lowbit_compiler.doctor import doctor as run

    Console(width=None if sys.stdout.isatty() else 140).print(run())


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
