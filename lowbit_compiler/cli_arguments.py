"""What commands share: their arguments, what these stand for (a function of the user's, names to ignore), and the stage of long work."""

import contextlib
import importlib.util
import json
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lowbit_compiler.errors import OptionError

Function = Annotated[str, typer.Argument(metavar="FILE.py:FUNCTION", help="a function that returns (model, example inputs)")]
RecipeName = Annotated[str, typer.Option(help="int8, llm-int8, int8-vector, int8-weight-only or int4-weight-only")]
Ignore = Annotated[
    list[str],
    typer.Option(
        help="name or re: pattern of a module to leave in float, or FILE.json of debug accuracy (its list alone: give the recipe again); "
        "repeat for more",
        show_default=False,
    ),
]
Dynamic = Annotated[
    list[str], typer.Option(help="sizes that may change, by argument: x:0=batch,1=length; repeat for more arguments", show_default=False)
]
PlanName = Annotated[str, typer.Option("--plan", help="measured: rewrite what is faster here; always: whatever the recipe covers")]


def load_function(spec: str) -> tuple[Any, tuple[Any, ...]]:
    """Return the model and the tuple of example inputs that ``FILE.py:FUNCTION`` gives; raises OptionError."""
    model, inputs = _pair(spec, (tuple, list), "tuple of inputs")
    return model, tuple(inputs)


def load_samples(spec: str) -> tuple[Any, Any]:
    """Return the model and the inputs of one call or more, as ``debug.accuracy`` takes them; raises OptionError."""
    return _pair(spec, (tuple, list, Mapping), "inputs: a tuple, a dict of named ones, or a list of these")


def _pair(spec: str, kinds: tuple[type, ...], words: str) -> tuple[Any, Any]:
    result = user_code(spec, find_function(spec))
    if not (isinstance(result, tuple) and len(result) == 2 and callable(result[0]) and isinstance(result[1], kinds)):
        raise OptionError(f"{spec} must return (model, {words}), got {type(result).__name__}")
    return result


def find_function(spec: str) -> Callable[..., Any]:
    """Return the function that ``FILE.py:FUNCTION`` names; raises OptionError."""
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
    user_code(file, lambda: module_spec.loader.exec_module(module))  # type: ignore[union-attr]
    function = getattr(module, name, None)
    if not callable(function):
        accepted = [key for key, item in vars(module).items() if callable(item) and not key.startswith("_")]
        raise OptionError(f"{file} has no function {name!r}; it has: {', '.join(accepted) or 'none'}")
    return function  # type: ignore[no-any-return]


def user_code(what: str, run: Callable[[], Any]) -> Any:
    """Return ``run()``; whatever it raises becomes an OptionError that names file and line."""
    try:
        return run()
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise OptionError(f"{what} raised {type(error).__name__}: {error} ({at.filename}, line {at.lineno})") from error


def names_to_ignore(items: Iterable[str]) -> list[str]:
    """Return ``items`` with each name of a .json file replaced by the file's list ``ignore``; raises OptionError."""
    names: list[str] = []
    for item in items:
        if not item.endswith(".json"):
            names.append(item)
            continue
        try:
            found = json.loads(Path(item).read_text())["ignore"]
            if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
                raise TypeError(f"'ignore' is no list of names but {found!r}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OptionError(
                f"--ignore {item}: expected a file that 'lowbit debug accuracy --out' wrote: {type(error).__name__}: {error}"
            ) from None
        names += found
    return names


def share(text: str) -> float:
    """Return "0.3%" or "0.003" as 0.003; raises OptionError."""
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise OptionError(f"expected a share such as 0.3% or 0.003, got {text!r}")
    return number


@contextlib.contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """Show the stage of long work, on the error stream."""
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield lambda stage: status.update(stage)
