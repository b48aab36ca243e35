"""What commands on a model share: FILE.py:FUNCTION and what it returns, the options, and the stage of long work."""

import contextlib
import importlib.util
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from lowbit_compiler.errors import OptionError

Function = Annotated[str, typer.Argument(metavar="FILE.py:FUNCTION", help="a function that returns (model, example inputs)")]
RecipeName = Annotated[str, typer.Option(help="int8, llm-int8, int8-vector, int8-weight-only or int4-weight-only")]
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


@contextlib.contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """Show the stage of long work, on the error stream."""
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield lambda stage: status.update(stage)
