"""One graph for several places of a model: Dynamo traces equal layers once, but ``ignore`` may tell them apart."""

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

Run = Callable[..., Any]
Seen = Callable[[PassContext], None]
Compile = Callable[[Captured, Sequence[Any], Options, Seen], tuple[Run, Report]]


@dataclass(frozen=True)
class _Choice:
    """What runs where the tensor ``leaf`` of ``owner`` is passed."""

    owner: weakref.ref[nn.Module]
    leaf: str
    run: Run


class ByPlace:
    """Calls, of several compilations of one graph, that for the module whose weights are passed; ``usual`` for any other."""

    def __init__(self, usual: Run, position: int, choices: Sequence[_Choice]) -> None:
        self.usual = usual
        self._position = position
        self._choices = tuple(choices)

    def __call__(self, *args: Any) -> Any:
        weight = args[self._position]
        for choice in self._choices:
            if getattr(choice.owner(), choice.leaf, None) is weight:
                return choice.run(*args)
        return self.usual(*args)


def compile_places(
    gm: fx.GraphModule, examples: Sequence[Any], options: Options, compiler: Compile, seen: Seen | None = None
) -> tuple[Run, list[Report]]:
    """Compile Dynamo's graph with ``compiler``, once for each set of its products that ``ignore`` names at one of its places.

    Returns what runs, and a report of each compilation; the last is that of the place of ``examples``, which ``seen`` is told of. Where the
    places cannot be told apart by what is passed, what is ignored at one is ignored at all.
    """
    captured = capture_dynamo(gm, examples)
    if not options.ignore or not captured.elsewhere:
        run, report = compiler(captured, examples, options, seen or _unseen)
        return run, [report]
    key = _telling(captured, examples)
    if key is None or options.free_weights:
        run, report = compiler(_as_one(captured), examples, options, seen or _unseen)
        return run, [report]
    contexts: list[PassContext] = []

    def watched(ctx: PassContext) -> None:
        contexts.append(ctx)
        if seen is not None:
            seen(ctx)

    usual, report = compiler(captured, examples, options, watched)
    own = _named(contexts[0], captured.here, captured.here)
    made: dict[frozenset[str], Run] = {own: usual}
    reports: list[Report] = []
    choices = []
    for place, module in captured.elsewhere.items():
        names = _named(contexts[0], captured.here, place)
        if names not in made:
            exact = tuple(f"re:^{re.escape(name)}$" for name in sorted(names))
            made[names], other = compiler(capture_dynamo(gm, examples), examples, replace(options, ignore=exact), _unseen)
            reports.append(_moved_report(other, captured.here, place))
        if names != own and (owner := _owner(module(), key[1])) is not None:
            choices.append(_Choice(weakref.ref(owner), key[1].rpartition(".")[2], made[names]))
    return ByPlace(usual, key[0], choices) if choices else usual, [*reports, report]


def _unseen(ctx: PassContext) -> None:
    pass


def _telling(captured: Captured, examples: Sequence[Any]) -> tuple[int, str] | None:
    """Return the position of an input that is a tensor of the traced module, and its path in it."""
    placeholders = captured.gm.graph.find_nodes(op="placeholder")
    for position, node in enumerate(placeholders):
        name = captured.parameters.get(node.name, "")
        if name.startswith(f"{captured.here}."):
            return position, name.removeprefix(f"{captured.here}.")
    return None


def _owner(module: nn.Module | None, path: str) -> nn.Module | None:
    try:
        return None if module is None else module.get_submodule(path.rpartition(".")[0])
    except AttributeError:
        return None


def _named(ctx: PassContext, here: str, place: str) -> frozenset[str]:
    """Return which names of the context's sites, as they are called here, ``ignore`` would name at ``place``."""
    names = {name for site in ctx.sites for name in (site.module, *site.parameters) if name}
    return frozenset(name for name in names if ignored(ctx, _moved(name, here, place)) is not None)


def _moved(name: str, here: str, place: str) -> str:
    return place + name[len(here) :] if name == here or name.startswith(f"{here}.") else name


def _moved_report(report: Report, here: str, place: str) -> Report:
    sites = [replace(site, module=_moved(site.module, here, place)) for site in report.sites]
    return replace(report, sites=sites)


def _as_one(captured: Captured) -> Captured:
    """Return ``captured`` with what it is called elsewhere among its names."""
    own = [name for name in captured.known_names if _moved(name, captured.here, "") != name]
    others = dict(captured.other_names)
    for name in own:
        others[name] = (*others.get(name, ()), *(_moved(name, captured.here, place) for place in captured.elsewhere))
    return replace(captured, other_names=others)
