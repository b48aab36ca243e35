"""One graph for several places of a model: Dynamo traces equal layers once, but ``ignore`` may tell them apart."""

import logging
import re
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from lowbit_compiler.capture.captured import Captured
from lowbit_compiler.capture.dynamo import capture_dynamo
from lowbit_compiler.options import Options
from lowbit_compiler.passes.contract import PassContext
from lowbit_compiler.passes.plan import ignored
from lowbit_compiler.report import Report
from lowbit_compiler.runtime.gathered import GatheredWeight
from lowbit_compiler.torch_internals.dtensor import is_dtensor, local

log = logging.getLogger("lowbit_compiler")
MET_LATER = "(met later)"
"""In reports, the place of a module that was no part of the model when its class was compiled."""
Run = Callable[..., Any]
Seen = Callable[[PassContext], None]
Compile = Callable[[Captured, Sequence[Any], Options, Seen], tuple[Run, Report]]


@dataclass(frozen=True)
class _Choice:
    """What runs where the tensor ``leaf`` of ``owner`` is passed."""

    owner: weakref.ref[nn.Module]
    leaf: str
    run: Run

    def holds(self, weight: Any) -> bool:
        """Return whether ``weight`` is the tensor of this place, or what a graph takes of that."""
        own = getattr(self.owner(), self.leaf, None)
        return any(
            each is weight
            for each in (own, *(own.parts if isinstance(own, GatheredWeight) else ()), *([local(own)] if is_dtensor(own) else ()))
        )


class ByPlace:
    """Calls, of several compilations of one graph, that for the module whose weights are passed; ``unknown`` for any other."""

    def __init__(self, unknown: Run, position: int, choices: Sequence[_Choice]) -> None:
        self._unknown = unknown
        self._position = position
        self._choices = tuple(choices)
        self._found: dict[int, _Choice] = {}
        self._warned = False

    def __call__(self, *args: Any) -> Any:
        weight = args[self._position]
        choice = self._found.get(id(weight))
        if choice is None or not choice.holds(weight):  # an id may be taken again
            choice = next((each for each in self._choices if each.holds(weight)), None)
            if choice is None:
                return self._elsewhere(*args)
            if len(self._found) >= 2 * len(self._choices):  # weights that are exchanged again and again
                self._found.clear()
            self._found[id(weight)] = choice
        return choice.run(*args)

    def _elsewhere(self, *args: Any) -> Any:
        if not self._warned:
            log.warning(
                "a graph is used for a module whose name is not known: what 'ignore' names at any place of the model is in float there"
            )
            self._warned = True
        return self._unknown(*args)


def compile_places(
    gm: fx.GraphModule, examples: Sequence[Any], options: Options, compiler: Compile, seen: Seen | None = None
) -> tuple[Run, list[Report]]:
    """Compile Dynamo's graph with ``compiler``, once for each set of its products that ``ignore`` names at one of its places.

    Returns what runs, and a report of each compilation; the last is that of the place of ``examples``, which ``seen`` is told of. Where the
    places cannot be told apart by what is passed, what is ignored at one is ignored at all; so it is in modules that come to light later.
    """
    captured = capture_dynamo(gm, examples)
    if not options.ignore or len(captured.places) < 2:
        run, report = compiler(captured, examples, options, seen or _unseen)
        return run, [report]
    key = _telling(captured)
    if key is None or options.free_weights:
        run, report = compiler(_as_one(captured), examples, options, seen or _unseen)
        return run, [report]
    contexts: list[PassContext] = []

    def watched(ctx: PassContext) -> None:
        contexts.append(ctx)
        if seen is not None:
            seen(ctx)

    usual, report = compiler(captured, examples, options, watched)
    left = {place: _named(contexts[0], captured.here, place) for place in captured.places}
    every = frozenset().union(*left.values())
    made: dict[frozenset[str], Run] = {left[captured.here]: usual}
    reports: list[Report] = []
    for place, names in [*left.items(), (MET_LATER, every)]:
        if names not in made:
            exact = tuple(f"re:^{re.escape(name)}$" for name in sorted(names))
            made[names], other = compiler(capture_dynamo(gm, examples), examples, replace(options, ignore=exact), _unseen)
            reports.append(_moved_report(other, captured.here, place))
    if len(made) == 1:
        return usual, [report]
    position, (path, _, leaf) = key[0], key[1].rpartition(".")
    owners = {place: _owner(module(), path) for place, module in captured.places.items()}
    choices = [_Choice(weakref.ref(owner), leaf, made[left[place]]) for place, owner in owners.items() if owner is not None]
    return ByPlace(made[every], position, choices), [*reports, report]


def _unseen(ctx: PassContext) -> None:
    pass


def _telling(captured: Captured) -> tuple[int, str] | None:
    """Return the position of an input that is a tensor of the traced module, and of no other, and its path in it."""
    placeholders = captured.gm.graph.find_nodes(op="placeholder")
    for position, node in enumerate(placeholders):
        name = captured.parameters.get(node.name, "")
        if name.startswith(f"{captured.here}.") and name not in captured.other_names:
            return position, name.removeprefix(f"{captured.here}.")
    return None


def _owner(module: nn.Module | None, path: str) -> nn.Module | None:
    try:
        return None if module is None else module.get_submodule(path)
    except AttributeError:
        return None


def _named(ctx: PassContext, here: str, place: str) -> frozenset[str]:
    """Return which names of the context's sites, as they are called here, ``ignore`` would name at ``place``."""
    names = {name for site in ctx.sites for name in (site.module, *site.found.parameters) if name}
    moved = {name: _moved(name, here, place) for name in names}
    # What places share has the one as a further name of the other.
    return frozenset(
        name for name in names if ignored(ctx, moved[name], *({name} if moved[name] in ctx.other_names.get(name, ()) else ())) is not None
    )


def _moved(name: str, here: str, place: str) -> str:
    return place + name[len(here) :] if name == here or name.startswith(f"{here}.") else name


def _moved_report(report: Report, here: str, place: str) -> Report:
    sites = [replace(site, module=_moved(site.module, here, place)) for site in report.sites]
    return replace(report, sites=sites)


def _as_one(captured: Captured) -> Captured:
    """Return ``captured`` with what it is called at every place among its names."""
    own = [name for name in captured.known_names if _moved(name, captured.here, "") != name]
    others = dict(captured.other_names)
    for name in own:
        others[name] = (*others.get(name, ()), *(_moved(name, captured.here, place) for place in captured.places))
    return replace(captured, other_names=others)
