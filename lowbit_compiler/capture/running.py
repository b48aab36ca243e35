"""Which methods of modules are running while Dynamo traces, and what torch.compile was given: where to look for the whole model."""

import inspect
import logging
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

from torch import nn

from lowbit_compiler.capture.names import Names, walk
from lowbit_compiler.torch_internals import sources

log = logging.getLogger("lowbit_compiler")
Frame = tuple[CodeType, dict[str, Any], dict[str, Any]]
"""Code, variables, globals."""


@dataclass
class Running:
    """The modules whose methods are running, outermost first."""

    outer: list[nn.Module] = field(default_factory=list)
    """Down to what was compiled."""
    inner: list[nn.Module] = field(default_factory=list)
    """From there to the traced function."""
    variables: dict[str, nn.Module] = field(default_factory=dict)
    """Of what was compiled, where that is a function: its arguments, cells and globals that are modules."""
    complete: bool = True
    """Whether ``variables`` are those of a call that begins: no other module has come to light since."""


def find_names() -> Names:
    """Return the names of all modules that the function which Dynamo is tracing belongs to; none outside of any.

    They are those of the outermost module whose method is running: after a graph break Dynamo sees a submodule alone. In a function they
    are those of the modules among its variables, below the variable's name where these are several.
    """
    now = sources.traced()
    if now is None:
        return Names()
    try:
        return _names(now)
    except Exception as error:  # in a release of torch that shows us something else: names are spelled after Dynamo's sources
        log.warning("the model's own names cannot be found, and those of torch's tracer are used: %s: %s", type(error).__name__, error)
        return Names(whole=False)


def _names(now: sources.Traced) -> Names:
    names = Names()
    met = sources.met_modules()
    here = _receiver(now.code, now.variables, given=True)
    roots = _Roots([module for module, _ in met] + ([] if here is None else [here]))
    running = _running((now.code, now.variables, now.globals))
    for module in running.outer:
        roots.take(module)
    if not roots.taken and running.variables:
        for variable, module in running.variables.items():
            roots.take(module, variable if len(running.variables) > 1 else "", always=True)
        names.whole = running.complete
    for module in running.inner:
        roots.take(module)
    names.whole = names.whole and bool(roots.taken)  # held by no module, they come to light one by one
    for module, text in sorted(met, key=lambda pair: -len(_ids(pair[0]))):
        roots.take(module, sources.variable(text))
    for module, name in roots.taken:
        names.add(module, name)
    if here is not None and (own := names.modules.get(id(here))):
        names.here = own[0]
        alike = {id(each): each for root, _ in roots.taken for _, each in walk(root) if type(each) is type(here)}
        names.places = {names.modules[key][0]: weakref.ref(each) for key, each in alike.items()} if names.here else {}
    return names


class _Roots:
    """Modules that hold, together, all that are to be named."""

    def __init__(self, wanted: list[nn.Module]) -> None:
        self.taken: list[tuple[nn.Module, str]] = []
        self._missing = {id(module) for module in wanted}

    def take(self, module: nn.Module, name: str = "", *, always: bool = False) -> None:
        """Add ``module``, called ``name``, where it holds something that no other does."""
        held = _ids(module)
        if always or held & self._missing:
            self.taken.append((module, name))
            self._missing -= held


def _ids(module: nn.Module) -> set[int]:
    return {id(each) for _, each in walk(module)}


def _running(traced: Frame) -> Running:
    frames = [traced, *_callers()]  # innermost first
    compiled = next((index for index in reversed(range(len(frames))) if sources.is_entry(frames[index][0].co_filename)), 1)
    first = next((i for i in reversed(range(compiled)) if not sources.is_calling(frames[i][0].co_filename)), 0)
    modules = [
        None if sources.is_entry(code.co_filename) else _receiver(code, variables, given=index != first)
        for index, (code, variables, _) in enumerate(frames)
    ]
    result = Running()
    result.outer = [module for module in reversed(modules[first:]) if module is not None]
    result.inner = [module for module in reversed(modules[:first]) if module is not None]
    if modules[first] is None:
        result.variables = _maximal(_modules(*frames[first]))
        result.complete = first == 0 and not sources.is_continuation(traced[0])
    return result


def _callers() -> list[Frame]:
    """Return the running functions that led to the traced one, without Dynamo's own; innermost first."""
    frames: list[Frame] = []
    frame = sys._getframe(1)
    while frame is not None:
        if sources.is_dynamo(frame.f_code.co_filename):
            frames.clear()  # what is further in is the compiler
        else:
            frames.append((frame.f_code, _variables(frame), frame.f_globals))
        frame = frame.f_back  # type: ignore[assignment]
    return frames


def _variables(frame: FrameType) -> dict[str, Any]:
    """Return a copy: before Python 3.13 a frame keeps the dictionary that it gives, and with it all that it holds."""
    given = frame.f_locals
    variables = dict(given)
    if sys.version_info < (3, 13) and frame.f_code.co_flags & inspect.CO_OPTIMIZED and sys.getrefcount(given) == 3:
        given.clear()  # the frame's, ours, the call's: nobody called locals()
    return variables


def _receiver(code: CodeType, variables: dict[str, Any], *, given: bool) -> nn.Module | None:
    """Return the module that ``code`` is a method of; ``(*args)`` of a decorator counts.

    Of a plain function it is, where ``given``, its first argument that is a module: what many use for a layer's forward.
    """
    names = code.co_varnames
    if sources.is_continuation(code):
        candidates = [variables.get("self"), *variables.values()]
    elif code.co_argcount:
        candidates = [variables.get(name) for name in names[: code.co_argcount if given else 1]]
        if not given and names[0] != "self" and not hasattr(type(candidates[0]), code.co_name):
            candidates = []
    elif code.co_flags & inspect.CO_VARARGS:
        candidates = [variables.get(names[code.co_kwonlyargcount])]
    else:
        candidates = []
    for candidate in candidates:
        first = candidate[0] if isinstance(candidate, tuple) and candidate else candidate
        if isinstance(first, nn.Module):
            return unwrapped(first)
    return None


def unwrapped(module: nn.Module) -> nn.Module:
    """Return what torch.compile was given, where ``module`` is what it returned."""
    # A ScriptModule's modules are no dictionary, and have no get.
    return unwrapped(module._modules[sources.WRAPPED]) if sources.WRAPPED in module._modules else module  # type: ignore[arg-type]


def _modules(code: CodeType, variables: dict[str, Any], globals: dict[str, Any]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules among the variables of a function, those in a list, tuple or dictionary too, and among the globals it names."""
    for name, value in [*variables.items(), *((name, globals[name]) for name in code.co_names if name in globals)]:
        if isinstance(value, nn.Module):
            yield name, unwrapped(value)
        elif isinstance(value, list | tuple | dict):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            yield from ((f"{name}.{key}", unwrapped(item)) for key, item in items if isinstance(item, nn.Module))


def _maximal(modules: Iterator[tuple[str, nn.Module]]) -> dict[str, nn.Module]:
    """Return each module once, and none that another one holds."""
    found = {id(module): (name, module) for name, module in reversed(list(modules))}
    inside = {held for _, module in found.values() for held in _ids(module) - {id(module)}}
    return {name: module for name, module in reversed(found.values()) if id(module) not in inside}
