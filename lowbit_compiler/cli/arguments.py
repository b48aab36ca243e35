"""What commands share: their arguments, what these stand for (a function of the user's, names to ignore), the stage of long work, and where tables go."""

import contextlib
import importlib.util
import inspect
import json
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lowbit_compiler.errors import OptionError
from lowbit_compiler.recipe_names import NAMES

if TYPE_CHECKING:
    from rich.console import Console

TOLERANCE = 10.0  # dB; that of the recipes, which import torch (a test says so)

Function = Annotated[str, typer.Argument(metavar="FILE.py:FUNCTION", help="a function that returns (model, example inputs)")]
RecipeName = Annotated[str, typer.Option(help=f"{', '.join(NAMES)}, or FILE.toml with a recipe of your own")]
Ignore = Annotated[
    list[str],
    typer.Option(
        help="name or re: pattern of a module to leave in float, or FILE.json of debug accuracy (its list alone: give the recipe again); "
        "repeat for more",
        show_default=False,
    ),
]
Dynamic = Annotated[
    list[str],
    typer.Option(
        help="sizes that may change, by argument: x:0=batch,1=length, with a largest size 1=length:512; repeat for more arguments",
        show_default=False,
    ),
]
PlanName = Annotated[
    str,
    typer.Option(
        "--plan", help="measured: rewrite what is faster here; always: what the recipe covers; FILE.json: what it says, of lowbit plan"
    ),
]


def load_function(spec: str) -> tuple[Any, tuple[Any, ...]]:
    """Return the model and the tuple of example inputs that ``FILE.py:FUNCTION`` gives, named ones by position; raises OptionError."""
    model, inputs = _pair(spec, (tuple, list, Mapping), "inputs: a tuple, or a dict of named ones")
    return model, _by_position(spec, model, inputs) if isinstance(inputs, Mapping) else tuple(inputs)


def load_samples(spec: str) -> tuple[Any, Any]:
    """Return the model and the inputs of one call or more, as ``debug.accuracy`` takes them; raises OptionError."""
    return _pair(spec, (tuple, list, Mapping), "inputs: a tuple, a dict of named ones, or a list of these")


def _pair(spec: str, kinds: tuple[type, ...], words: str) -> tuple[Any, Any]:
    result = user_code(spec, find_function(spec), Path(spec.rpartition(":")[0]))
    if not isinstance(result, tuple) or len(result) != 2:
        got = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
    elif not callable(result[0]):
        got = f"{type(result[0]).__name__} as the model"
    elif not isinstance(result[1], kinds):
        got = f"{type(result[1]).__name__} as the inputs"
    else:
        return result
    raise OptionError(f"{spec} must return (model, {words}), got {got}")


def _by_position(spec: str, model: Any, inputs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return named inputs as positional ones, with the defaults of those that are left out before the last."""
    try:
        bound = inspect.signature(getattr(model, "forward", model)).bind(**inputs)
    except TypeError as error:
        raise OptionError(f"{spec}: the model does not take these inputs: {error}") from None
    if bound.kwargs.keys() - _positional(bound.signature):
        raise OptionError(f"{spec}: the model takes {', '.join(bound.kwargs)} by name alone; return a model that takes it by position")
    last = max((_positional(bound.signature).index(name) for name in inputs), default=-1)
    bound.apply_defaults()
    return tuple(bound.arguments[name] for name in _positional(bound.signature)[: last + 1])


def _positional(signature: inspect.Signature) -> list[str]:
    return [name for name, each in signature.parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD]


def find_function(spec: str) -> Callable[..., Any]:
    """Return the function that ``FILE.py:FUNCTION`` names; raises OptionError.

    The file can import its neighbours, as a script can.
    """
    file, colon, name = spec.rpartition(":")
    path = Path(file)
    if not colon or path.suffix != ".py" or not name.isidentifier():
        raise OptionError(f"expected FILE.py:FUNCTION, got {spec!r}")
    if not path.is_file():
        raise OptionError(f"no such file: {file!r}")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    # Under a name that no other module has, whatever the file is called; dataclasses look their module up.
    module_spec = importlib.util.spec_from_file_location(f"lowbit_file_{path.stem}", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = sys.modules[module_spec.name] = importlib.util.module_from_spec(module_spec)
    user_code(file, lambda: module_spec.loader.exec_module(module), path)  # type: ignore[union-attr]
    function = getattr(module, name, None)
    if not callable(function):
        accepted = [key for key, item in vars(module).items() if callable(item) and not key.startswith("_")]
        raise OptionError(f"{file} has no function {name!r}; it has: {', '.join(accepted) or 'none'}")
    return function  # type: ignore[no-any-return]


def user_code(what: str, run: Callable[[], Any], path: Path) -> Any:
    """Return ``run()``; whatever it raises becomes an OptionError that names the line of ``path`` which it comes from."""
    try:
        return run()
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).resolve() == path.resolve()]
        at = f" ({path}, line {lines[-1]})" if lines else ""  # a syntax error says it itself
        raise OptionError(f"{what} raised {type(error).__name__}: {error}{at}") from error


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


def number_of_bytes(text: str) -> int:
    """Return "60MB", "60e6" or "60000000" as 60000000; raises OptionError."""
    found = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?) *([kMG]?)B?", text)
    try:
        number = float(found[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[found[2]] if found else 0.0
    except ValueError:
        number = 0.0
    if not 1 <= number < float("inf"):
        raise OptionError(f"expected a number of bytes such as 60MB or 60000000, got {text!r}")
    return int(number)


@contextlib.contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """Show the stage of long work, on the error stream."""
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield lambda stage: status.update(stage)


def console(width: int = 180) -> "Console":
    """Return where tables are printed: as wide as the terminal, or ``width`` where the output is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else width)
