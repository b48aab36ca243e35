"""What must hold for a compiled random model; each function returns what does not, in words.

Every low-bit product is within its certificate of the float64 product of its own operands; with each of them in float, the rewritten graph
gives what the model gives, up to rounding; so does the graph that is not quantized at all. Together these hold a recipe to its word without a
tolerance for whole models. Shapes, dtypes and memory of the results, and inputs that are written to, are those of the model.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from fuzz.models import Case
from fuzz.rounding import distance, radius
from torch import Tensor, fx
from torch.utils._pytree import tree_map_only

from lowbit_compiler.capture.dynamo import capture_dynamo
from lowbit_compiler.compile.constants import compute
from lowbit_compiler.compile.driver import compile_captured
from lowbit_compiler.debug.switched import weight_of_op
from lowbit_compiler.debug.tally import Tally
from lowbit_compiler.options import Options, parse
from lowbit_compiler.passes.contract import Constant, PassContext
from lowbit_compiler.passes.site import Reason, Site
from lowbit_compiler.report import Report
from lowbit_compiler.runtime.before import PROLOGUE
from lowbit_compiler.runtime.reference.prologue import prologue
from lowbit_compiler.torch_internals import autocast

RECIPES = ("int8", "llm-int8", "int8-weight-only", "int4-weight-only")
MOVED = 16.0
"""Of the radius that a few random runs showed: the rows of one run are a sample, and another order of a sum is another sum."""
INSIDE = 1 + 2.0**-10
"""Error over certificate: what a prologue rounds otherwise is 2^-20 of the sum of magnitudes, of which the certificate is 2^-8."""


@dataclass
class Result:
    """What was found of one model."""

    problems: list[str] = field(default_factory=list)
    ops: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    tightness: float = 0.0
    moved: float = 0.0
    graphs: int = 0


@dataclass
class Compiled:
    """One graph under one recipe."""

    name: str
    run: Any
    walk: "Walk"


def check(case: Case, recipes: Sequence[str] = RECIPES) -> Result:
    """Compile and run ``case`` with every recipe, and once without quantization."""
    result = Result()
    every = {recipe: parse({"recipe": recipe, "plan": "always", "remainder": "eager"}, env={}) for recipe in recipes}
    every["exact"] = replace(next(iter(every.values())), disable=frozenset({"quantize"}))

    def backend(gm: fx.GraphModule, examples: list[Any]) -> Any:
        result.graphs += 1
        compiled = [_compiled(gm, examples, name, options, result) for name, options in every.items()]

        def run(*args: Any) -> Any:
            want, written = _on_copies(gm.forward, args)
            sizes = radius(lambda: [x for part in _on_copies(gm.forward, args) for x in part], (*want, *written))
            for each in filter(None, compiled):
                _compare(result, each, args, (*want, *written), len(want), sizes)
            return want if isinstance(want, tuple) else tuple(want)

        return run

    torch._dynamo.reset()
    call = torch.compile(case.model, backend=backend, dynamic=True if case.dynamic else None)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=case.autocast):
        call(*(x.clone() for x in case.inputs))
    return result


def _compiled(gm: fx.GraphModule, examples: list[Any], name: str, options: Options, result: Result) -> Compiled | None:
    captured, seen = capture_dynamo(gm, examples), []
    inputs = [node.name for node in captured.gm.graph.find_nodes(op="placeholder")]
    try:
        run, report = compile_captured(captured, examples, options, seen.append)
    except Exception as error:
        result.problems.append(f"{name}: falls back: {type(error).__name__}: {error}")
        return None
    result.problems += [f"{name}: {problem}" for problem in _undecided(report)]
    result.ops.update(site.lowered_to for site in report.rewritten)
    result.reasons.update(report.reasons())
    return Compiled(name, run, Walk(captured.gm, seen[0], inputs))


def _undecided(report: Report) -> list[str]:
    problems = [f"falls back: {report.fallback}"] if report.fallback else []
    problems += [note for note in report.notes if note.startswith("internal error")]
    for site in report.sites:
        if site.reason == Reason.INTERNAL_ERROR.value or bool(site.lowered_to) == bool(site.reason):
            problems.append(f"{site.module} {site.op}: {site.reason or 'no decision'} {site.detail}")
    return problems


class Walk(fx.Interpreter):
    """Runs a rewritten graph with its products in float64, and holds each low-bit product against it."""

    def __init__(self, gm: fx.GraphModule, ctx: PassContext, inputs: list[str]) -> None:
        super().__init__(fx.GraphModule(gm, gm.graph))
        self._inputs = inputs
        self._sites = {
            site.node.name: site for site in ctx.planned() if site.node.op == "call_function" and "linear_" in str(site.node.target)
        }
        self._chains = {site.call.name: site.node.graph for site in ctx.planned() if site.call is not site.node}
        self._constants = {name: constant for constant in ctx.constants for name in constant.outputs}
        self._given: dict[str, Any] = {}
        self.tallies: dict[str, Tally] = {}

    @contextlib.contextmanager
    def of(self, args: Sequence[Any]) -> Iterator["Walk"]:
        """Take float weights from the graph's inputs ``args``."""
        self._given, self.tallies = dict(zip(self._inputs, args, strict=True)), {}
        yield self

    def run_node(self, n: fx.Node) -> Any:
        """Compute one node; of a chain each step by itself."""
        if n.name in self._chains:
            (rows, constants, *_), _ = self.fetch_args_kwargs_from_env(n)
            kept = Steps(self._chains[n.name], self).run(*rows, *constants)
            return (*kept, *[kept[0].new_empty(0)] * (2 - len(kept)))
        site = self._sites.get(n.name)
        return super().run_node(n) if site is None else self.product(n, site, *self.fetch_args_kwargs_from_env(n))

    def site(self, n: fx.Node) -> Site | None:
        """Return the site of a low-bit product."""
        return self._sites.get(n.name)

    def product(self, n: fx.Node, site: Site, args: Any, kwargs: Any) -> Tensor:
        """Return the product in float64, and tally the low-bit one."""
        result = low(n, args, kwargs)
        constant: Constant = self._constants[n.args[1].name]  # type: ignore[union-attr]
        with autocast.disabled():
            assert site.plan is not None
            (weight,) = compute(weight_of_op(site.plan, constant.graph), *(self._given[name] for name in constant.sources))
            x = prologue(args[0], *({**PROLOGUE, **kwargs}[name] for name in PROLOGUE)) if kwargs else args[0]
            self.tallies.setdefault(site.module or site.found.op, Tally()).add(x, weight, args[2], site.plan.inner, args[1], result)
            y = x.double() @ weight.double().t()
            return (y if args[2] is None else y + args[2].double()).to(result.dtype)


class Steps(fx.Interpreter):
    """Runs the steps of a chain as ``walk`` runs products of their own."""

    def __init__(self, body: fx.Graph, walk: Walk) -> None:
        super().__init__(fx.GraphModule({}, body))
        self._walk = walk

    def run_node(self, n: fx.Node) -> Any:
        """Compute one step, or a view between two."""
        site = self._walk.site(n) if n.op == "call_function" else None  # an input may have the name of what is a step elsewhere
        return super().run_node(n) if site is None else self._walk.product(n, site, *self.fetch_args_kwargs_from_env(n))


def low(n: fx.Node, args: Any, kwargs: Any) -> Tensor:
    """Return what the low-bit op of a product gives."""
    return n.target(*args, **kwargs)  # type: ignore[operator, no-any-return]


def _on_copies(run: Any, args: Sequence[Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the results of ``run``, and its inputs as they are then."""
    given = tree_map_only(Tensor, lambda x: x.clone(), list(args))
    results = run(*given)
    return [x for x in results if isinstance(x, Tensor)], [x for x in given if isinstance(x, Tensor)]


def _compare(result: Result, compiled: Compiled, args: Sequence[Any], want: Sequence[Tensor], returned: int, sizes: list[Tensor]) -> None:
    def problem(text: str) -> None:
        result.problems.append(f"{compiled.name}: {text}")

    try:
        results, written = _on_copies(compiled.run, args)
        floats = (*results, *written)
        if compiled.name != "exact":
            with compiled.walk.of(args):
                compiled.run.inner, inner = compiled.walk.run, compiled.run.inner
                floats = tuple(x for part in _on_copies(compiled.run, args) for x in part)
                compiled.run.inner = inner
    except Exception as error:
        return problem(f"raises {type(error).__name__}: {error}")
    for index, (got, y) in enumerate(zip(results, want[:returned], strict=True)):
        if (got.shape, got.dtype) != (y.shape, y.dtype):
            problem(f"result {index} is {got.dtype} {tuple(got.shape)}, expected {y.dtype} {tuple(y.shape)}")
        elif memory(got) != memory(y):
            problem(f"result {index} has strides, offset and storage {memory(got)}, expected {memory(y)}")
        elif bool((torch.isfinite(y) & ~torch.isfinite(got)).any()):
            problem(f"result {index} is not finite")
    for index, (got, y, size) in enumerate(zip(floats, want, sizes, strict=True)):
        if not got.is_floating_point() or got.shape != y.shape:
            continue
        error, least = distance(got, y), torch.finfo(y.dtype).tiny
        moved = float((error / (size + least)).masked_fill(error == 0, 0.0).nan_to_num(nan=torch.inf).max()) if got.numel() else 0.0
        result.moved = max(result.moved, moved)
        if not moved <= MOVED:
            problem(
                f"{'result' if index < returned else 'input'} {index % returned} moves by {float(error.max()):.3g}, {moved:.3g} of what rounding may"
            )
    for name, tally in compiled.walk.tallies.items():
        result.tightness = max(result.tightness, tally.tightness)
        if max(tally.tightness, tally.weight_tightness) > INSIDE:
            problem(f"product {name}: error {tally.tightness:.4g} of its certificate, weight {tally.weight_tightness:.4g}")


def memory(x: Tensor) -> tuple[tuple[int, ...], int, int]:
    """Return what a reader of memory sees of a tensor."""
    strides = tuple(stride if size != 1 else 0 for size, stride in zip(x.shape, x.stride(), strict=True))  # torch's own fakes differ there
    return strides, x.storage_offset(), x.untyped_storage().nbytes()
