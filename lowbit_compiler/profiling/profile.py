"""Compile a model, run it, and say where the time of a step goes, site by site."""

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from lowbit_compiler.compile.driver import compile_dynamo
from lowbit_compiler.compile.executable import Executable
from lowbit_compiler.compile.history import last_report
from lowbit_compiler.compile.together import require_alone
from lowbit_compiler.errors import DebugError, OptionError
from lowbit_compiler.options import Options, parse
from lowbit_compiler.passes.calls import hint
from lowbit_compiler.passes.contract import PassContext
from lowbit_compiler.passes.graph import value
from lowbit_compiler.passes.site import Site
from lowbit_compiler.profiling.calls import Key, Step
from lowbit_compiler.profiling.floors import Work, floor, sum_of, work_of
from lowbit_compiler.profiling.rounds import recorded, timed
from lowbit_compiler.profiling.show import Row, tables
from lowbit_compiler.recipes import DEFAULT, Recipe
from lowbit_compiler.report import Measured, Report
from lowbit_compiler.rerun import USUAL, describe, restorer
from lowbit_compiler.runtime import timings
from lowbit_compiler.torch_internals import inductor, profiler
from lowbit_compiler.torch_internals.trees import tree_leaves

WARM_UP = 3  # runs after compiling: the first ones allocate, and CUDA graphs are recorded


@dataclass(frozen=True)
class _Op:
    """A lowbit op of a rewritten graph: which rows of the report it computes, and how its call is recognised."""

    key: Key
    rows: tuple[int, ...]
    shares: tuple[float, ...]
    """What part of its outputs each of those rows has; siblings that were merged share one op."""
    work: Work
    graph: int = 0


@dataclass(frozen=True)
class Profile:
    """Times in seconds, medians of ``rounds`` runs; ``report`` has those of the sites in ``measured``."""

    report: Report
    rounds: int
    step: float
    """Of a whole run, without the profiler."""
    profiled_step: float
    """The same while the profiler records, which is what shares refer to."""
    sites: tuple[Row, ...]
    """One for each op, slowest first."""
    rest: tuple[Row, ...]
    """Everything else that was recorded: Inductor's kernels and torch's ops, by name, slowest first."""
    overhead: float
    """What is left of the profiled step: Dynamo's guards, generated Python, starting kernels, and the profiler."""
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return plain data as JSON text: keys as in Profile, Row and Report."""
        return json.dumps(asdict(self), indent=1)

    def __rich__(self) -> Any:
        return tables(self.sites, self.rest, self.step, self.profiled_step, self.overhead, self.rounds, self.notes, self.report.reasons())


def profile(
    model: Callable[..., Any],
    *inputs: Any,
    recipe: str | Recipe = DEFAULT,
    mode: str | None = None,
    rounds: int = 20,
    progress: Callable[[str], None] = lambda stage: None,
    **options: Any,
) -> Profile:
    """Compile ``model`` for ``inputs`` as torch.compile would, in inference, and time ``rounds`` runs with and as many without the profiler.

    ``mode`` and ``options`` are those of the backend. Dynamo is reset before and after; inputs and buffers that the model writes to get
    their values back. Raises OptionError, and DebugError where the float model fails by itself.
    """
    if not isinstance(rounds, int) or rounds < 1:
        raise OptionError(f"rounds takes a number >= 1, got {rounds}")
    parsed = parse({"recipe": recipe, **options}, mode)
    require_alone(parsed)
    graphs = _Graphs(parsed)
    torch.compiler.reset()
    restore = restorer(model, inputs)
    try:
        # Inductor's CPU kernels are only recorded where they are told to be.
        with torch.no_grad(), inductor.settings({"cpp.enable_kernel_profile": True}):
            progress("running the float model")
            _try(model, inputs)
            restore()
            progress("compiling")
            compiled = torch.compile(model, backend=graphs.backend)
            for _ in range(WARM_UP):
                compiled(*inputs)
            return _measured(graphs, lambda: compiled(*inputs), rounds, progress)
    finally:
        torch.compiler.reset()
        restore()


class _Graphs:
    """What Dynamo has compiled: a report for each graph, and the ops and executables of those that were not left in float."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.reports: list[Report] = []
        self.ops: list[_Op] = []
        self.executables: dict[int, Executable] = {}

    def backend(self, gm: fx.GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
        first = sum(len(report.sites) for report in self.reports)
        number = len(self.reports)
        found: list[tuple[_Op, tuple[str, ...]]] = []
        run = compile_dynamo(gm, examples, self._options, seen=lambda ctx: found.extend(_ops(ctx, first)))
        if isinstance(run, Executable):  # not where the graph was left in float
            self.executables[number] = run
            packed = run.packed
            self.ops += [replace(_with_weights(op, [packed[n] for n in names]) if names else op, graph=number) for op, names in found]
        self.reports.append(last_report())
        return run


def _measured(graphs: _Graphs, run: Callable[[], Any], rounds: int, progress: Callable[[str], None]) -> Profile:
    """Time ``run``, whose graphs are compiled, without the profiler and then with it."""
    compiled = len(graphs.reports)
    live = _called(graphs.executables, run)
    ops = [op for op in graphs.ops if op.graph in live]
    dead = sum(number < compiled and number not in live for number in graphs.executables)
    on_gpu = any(op.work.device == "cuda" for op in ops)
    progress("timing")
    quiet = timings.quiet()
    seconds = timed(run, rounds, on_gpu)
    progress("recording")
    steps = recorded(run, rounds, on_gpu)
    progress("measuring what this machine can do")
    result = _profile(graphs.reports, ops, steps, statistics.median(seconds))
    notes = list(result.notes)
    if dead:
        notes.append(f"graphs that were compiled and are not run any more: {dead}; their sites get no times")
    if len(graphs.reports) > compiled:
        notes.append(f"the model was compiled anew while it was timed; {USUAL}")
    if not (quiet and timings.steady({"step": seconds}) and timings.quiet()):
        notes.append("the cores were not free: another process was running, so times and floors are rough")
    return replace(result, notes=tuple(notes))


def _try(model: Callable[..., Any], inputs: Sequence[Any]) -> None:
    try:
        model(*inputs)
    except Exception as error:
        raise DebugError(f"the float model fails by itself, without lowbit: {describe(error)}") from error


def _called(executables: Mapping[int, Executable], run: Callable[[], Any]) -> set[int]:
    """Return which of the graphs ``run`` calls: where Dynamo traced a function again, the first graph of it may be dead."""
    called: set[int] = set()
    inner = {number: executable.inner for number, executable in executables.items()}

    def watched(number: int) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            called.add(number)
            return inner[number](*args)

        return call

    for number in inner:
        executables[number].inner = watched(number)
    try:
        run()
    finally:
        for number, original in inner.items():
            executables[number].inner = original
    return called


def _ops(ctx: PassContext, first: int) -> list[tuple[_Op, tuple[str, ...]]]:
    """Return the ops of a rewritten graph in its order, with the names of their packed weights.

    ``first`` is the report's row of the graph's first site.
    """
    groups: dict[fx.Node, list[tuple[int, Site]]] = defaultdict(list)
    for index, site in enumerate(ctx.sites, first):
        if site.lowered_to:
            groups[site.call].append((index, site))
    found = []
    for call in sorted(groups):
        members = [site for _, site in groups[call]]
        sizes = tuple(hint(size) for size in value(tree_leaves(call.args[0])[0]).shape)
        total = sum(site.found.n * site.found.k for site in members)
        shares = tuple(site.found.n * site.found.k / total if total else 1.0 for site in members)
        rows = tuple(index for index, _ in groups[call])
        products = {site.node: site for site in members}  # of merged siblings one
        weights = tuple(str(node.args[1]) for node in products if members[0].kind == "linear")
        work = sum_of([work_of(site) for site in products.values()])
        name = call.target._schema.name  # type: ignore[union-attr]
        found.append((_Op((name, 0, sizes), rows, shares, work), weights))
    return found


def _with_weights(op: _Op, weights: Sequence[Tensor]) -> _Op:
    """Return ``op``, which is told from others of its kind by its first weight."""
    name, _, sizes = op.key
    key = (name, profiler.identity(weights[0]), sizes)
    return replace(op, key=key, work=replace(op.work, weights=sum(weight.nbytes for weight in weights)))


def _profile(reports: Sequence[Report], ops: Sequence[_Op], recorded: Sequence[Step], step: float) -> Profile:
    notes: list[str] = []
    report = Report(reports[0].recipe if reports else "", graphs=0)
    for one in reports:
        report.extend(one)
    if report.fallback:
        notes.append(f"a graph was left in float: {report.fallback}")
    whole = statistics.median(one.seconds for one in recorded)
    if whole > 2 * step:
        notes.append("recording takes longer than the step itself: shares are those of the recorded step, and small calls look larger")
    weights = sum(op.work.weights for op in {op.key: op for op in ops}.values())
    sites: list[Row] = []
    attributed = _attributed(ops, recorded, notes)
    for op, seconds, count in attributed:
        rows = [report.sites[index] for index in op.rows]
        least = count * floor(op.work, weights)
        for index, share in zip(op.rows, op.shares, strict=True):
            site = report.sites[index]
            measured = replace(site.measured or Measured(), seconds=seconds * share, floor=least * share)
            report.sites[index] = replace(site, measured=measured)
        name = rows[0].module + (f" (+ {', '.join(row.module.rpartition('.')[2] for row in rows[1:])})" if rows[1:] else "")
        shape = " + ".join([rows[0].shape, *(row.shape.rpartition(" ")[2] for row in rows[1:])])
        sites.append(Row(name, seconds, seconds / whole, count, rows[0].kernel, op.key[0].removeprefix("lowbit::"), shape, least))
    names: dict[str, list[float]] = defaultdict(list)
    counts: dict[str, int] = defaultdict(int)
    known = {op.key for op, *_ in attributed}
    others = [[call for call in one.calls if call.key not in known] for one in recorded]
    for calls in others:
        totals: dict[str, float] = defaultdict(float)
        for call in calls:
            totals[call.name] += call.seconds
            counts[call.name] += 1
        for name, total in totals.items():
            names[name].append(total)
    medians = {name: statistics.median([*found, *[0.0] * (len(recorded) - len(found))]) for name, found in names.items()}
    rest = [Row(name, seconds, seconds / whole, round(counts[name] / len(recorded))) for name, seconds in medians.items()]
    overhead = whole - sum(row.seconds for row in (*sites, *rest))
    return Profile(report, len(recorded), step, whole, _slowest_first(sites), _slowest_first(rest), overhead, tuple(notes))


def _slowest_first(rows: Sequence[Row]) -> tuple[Row, ...]:
    return tuple(sorted(rows, key=lambda row: -row.seconds))


def _attributed(ops: Sequence[_Op], recorded: Sequence[Step], notes: list[str]) -> list[tuple[_Op, float, int]]:
    """Return the median seconds of each op in a step, and how often it is called there.

    Ops whose calls look alike (attentions of one shape, layers that share their weights) are told apart by their order, which the
    data that flows from one to the next fixes. Where their number is not a multiple of the ops', or the graphs of several are called
    more than once and in an order that is not known, none of them gets a time.
    """
    alike: dict[Key, list[_Op]] = defaultdict(list)
    for op in ops:
        alike[op.key].append(op)
    found = []
    for key, members in alike.items():
        calls = [[call.seconds for call in one.calls if call.key == key] for one in recorded]
        (count, *others) = sorted({len(each) for each in calls})
        times = count // len(members)
        if others or count % len(members) or not times or (times > 1 and len({op.graph for op in members}) > 1):
            notes.append(
                f"{len(members)} sites of {key[0]} have {' or '.join(map(str, (count, *others)))} calls in a step, and get no times"
            )
            continue
        for index, op in enumerate(members):
            found.append((op, statistics.median(sum(each[index :: len(members)]) for each in calls), times))
    return found
