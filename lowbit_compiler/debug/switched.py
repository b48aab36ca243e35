"""A model compiled so that each low-bit product can be computed in float instead, from one run to the next."""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx

from lowbit_compiler.capture.captured import Captured
from lowbit_compiler.capture.dynamo import capture_dynamo
from lowbit_compiler.capture.localize import Localized
from lowbit_compiler.compile.constants import compute
from lowbit_compiler.compile.executable import Executable
from lowbit_compiler.compile.explaining import alone, joined
from lowbit_compiler.compile.fallback import declined_report, needs_gradient
from lowbit_compiler.compile.rewrite import rewrite
from lowbit_compiler.compile.together import require_alone
from lowbit_compiler.errors import DebugError, OptionError, WeightFreedError
from lowbit_compiler.options import Options
from lowbit_compiler.passes.contract import PassContext
from lowbit_compiler.passes.graph import calls, copied, substitute, value
from lowbit_compiler.passes.notes import notes
from lowbit_compiler.passes.product import QUANTIZE, float_weight, products, treated_weight, uncast
from lowbit_compiler.passes.site import Site
from lowbit_compiler.recipes import RECIPES
from lowbit_compiler.report import Report
from lowbit_compiler.runtime.products import Plan, Stored
from lowbit_compiler.runtime.weights import any_freed

CUTS = 32  # places in a graph to start from again
APART = frozenset({"merge", "prologue", "chain", "cleanup"})
"""Passes left out: siblings stay products of their own, their inputs are rounded as in the float model, and float weights stay."""


@dataclass(frozen=True)
class Switch:
    """One low-bit product of one graph; ``row`` is its place in the report. Equal where the model is traced again."""

    plan: Plan
    names: tuple[str, ...]
    """What ``ignore`` knows it by: module and parameters."""
    row: int
    weight: fx.Graph = field(compare=False)
    """Computes the float weight [N, K] from ``sources``."""
    sources: tuple[str, ...] = field(compare=False)
    shape: tuple[int, int] = field(compare=False)
    """[N, K] of the weight."""


def require_inference(options: Options) -> None:
    """Raise OptionError for a recipe that trains: of it there would be measured what evaluates the model in between."""
    if options.training is not None:
        raise OptionError(
            f"products are measured without gradients, and recipe {options.training.name!r} trains; accepted: {', '.join(RECIPES)}. "
            "Its gradients are measured by lowbit debug accuracy"
        )


Watch = Callable[[Switch, Tensor, Tensor, Tensor | None, Stored, Tensor], None]
"""Called with product, x [..., K], weight [N, K], bias [N], the stored weight and the low-bit result [..., N]."""


class Switched:
    """``model`` with all products in float but those in ``low``; ``watch`` is shown every product, whatever is in ``low``.

    Calls go to the model's own forward through Dynamo, so graph breaks and dynamic shapes are as in use. Call it inside ``running()`` and
    without gradients.
    """

    def __init__(self, model: Callable[..., Any], options: Options) -> None:
        require_inference(options)
        if options.free_weights:
            raise OptionError("option 'free_weights' takes False here: the float model is needed to compare with")
        require_alone(options)
        if options.disable or options.stop_after or options.max_rewrites is not None:
            raise OptionError("LOWBIT_DISABLE, LOWBIT_STOP_AFTER and LOWBIT_MAX_REWRITES must not be set here: every product is looked at")
        self.low: Collection[Switch] = frozenset()
        self.watch: Watch | None = None
        self.products: list[Switch] = []
        self.keeping = False
        self.walked: list[_Walk] = []
        self._options = replace(options, dump=None, verify=False)
        self._reports: list[Report] = []
        self._rows = 0
        self._call: Callable[..., Any] = torch.compile(model, backend=self._backend)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Trace the model anew at the first call inside."""
        self.products, self._reports, self._rows = [], [], 0
        with alone():
            yield

    @property
    def report(self) -> Report:
        """Of all graphs met so far, as the options make them."""
        return joined(self._options.recipe.name, self._reports)

    @contextlib.contextmanager
    def replaying(self, run: Callable[[], Any]) -> Iterator[None]:
        """Call ``run``, all in float; the same call inside, with any products low-bit, starts shortly before the first of these.

        It starts from the beginning where values before that may differ: several graphs, random numbers, writes in place.
        """
        self.keeping, self.walked = True, []
        walks = self.walked
        try:
            run()
            if len(walks) != 1:
                _forget(walks)
            self.keeping = False
            yield
        finally:
            self.keeping = False
            _forget(walks)
            self.walked = []

    def _backend(self, gm: fx.GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
        if needs_gradient(examples):
            self._add(declined_report(capture_dynamo(gm, examples), self._options))
            return gm.forward
        if any_freed(examples):
            raise WeightFreedError("a float weight was released by free_weights=True; load the model anew to compare with it")
        local = Localized(gm, examples)
        return local.bind(self._switchable(local.gm, local.examples))

    def _switchable(self, gm: fx.GraphModule, examples: Sequence[Any]) -> Executable:
        """Return the localized graph ``gm``, run node by node."""
        row = self._rows
        self._add(rewrite(capture_dynamo(gm, examples), self._options, examples)[1])
        captured = capture_dynamo(gm, examples)
        inputs = _placeholders(captured.gm)
        ctx, _ = rewrite(captured, replace(self._options, disable=APART), examples)
        _write_emulated(captured.gm, ctx)
        found = {site.node: _switch(ctx, site, row + index) for index, site in enumerate(ctx.sites) if site.plan is not None}
        self.products += found.values()
        # Certificates are of rounding to nearest; prepared codes are further from the weight, and nearer to the product.
        executable = Executable(inputs, _placeholders(captured.gm), ctx.constants, prepared=dict)
        executable.load(examples)
        executable.inner = _Walk(captured, found, self)
        return executable

    def _add(self, report: Report) -> None:
        self._reports.append(report)
        self._rows += len(report.sites)

    def result(self, product: Switch, op: Callable[..., Tensor], args: Sequence[Any], sources: Sequence[Tensor]) -> Tensor:
        """Return what ``op(*args)`` stands for, in low precision or in the float of its operands."""
        if product in self.low and self.watch is None:
            return op(*args)
        (x, stored, bias), dtype = args[:3], args[-1]
        (weight,) = compute(product.weight, *sources)
        if self.watch is not None:
            self.watch(product, x, weight, bias, stored, op(*args))
        if product in self.low:
            return op(*args)
        result = torch.nn.functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
        return result.to(dtype or x.dtype)


class _Walk(fx.Interpreter):
    """Runs a rewritten graph node by node, its products as ``switched`` says."""

    def __init__(self, captured: Captured, products: dict[fx.Node, Switch], switched: Switched) -> None:
        super().__init__(fx.GraphModule(captured.gm, captured.gm.graph))
        nodes = list(self.graph.nodes)
        self._names = [node.name for node in nodes if node.op == "placeholder"]
        self._products = {node.name: product for node, product in products.items()}
        self._position = {node: index for index, node in enumerate(nodes)}
        self._at = {self._products[node.name]: index for node, index in self._position.items() if node.name in self._products}
        self._cuts = set(sorted(self._at.values())[:: -(-len(self._at) // CUTS) or 1])
        self._writes = any(notes(node).writes for node in nodes)
        self.kept: dict[int, dict[fx.Node, Any]] = {}
        """Position of a node -> the values that are alive before it."""
        self._switched = switched
        self._start = 0
        self._given: dict[str, Any] = {}

    def __call__(self, *values: Any) -> Any:
        self._given = dict(zip(self._names, values, strict=True))  # weights outlive their last reader in the graph
        first = min((self._at[product] for product in self._switched.low if product in self._at), default=len(self._position))
        self._start = max((cut for cut in self.kept if cut <= first), default=0)
        if self._switched.keeping:
            self._switched.walked.append(self)
        state = torch.get_rng_state() if self._switched.keeping else None
        try:
            return self.run(*values, initial_env=dict(self.kept.get(self._start, {})))
        finally:
            if self._writes or (state is not None and not torch.equal(state, torch.get_rng_state())):
                self.kept = {}
            self._given = {}
            self.env = {}

    def run_node(self, n: fx.Node) -> Any:
        """Compute one node, or nothing where all that reads it was computed before."""
        position = self._position[n]
        if position < self._start:
            return None
        if self._switched.keeping and position in self._cuts:
            self.kept[position] = dict(self.env)
        product = self._products.get(n.name)
        if product is None:
            return super().run_node(n)
        args, _ = self.fetch_args_kwargs_from_env(n)
        return self._switched.result(product, n.target, args, [self._given[name] for name in product.sources])  # type: ignore[arg-type]


def _forget(walks: Iterable[_Walk]) -> None:
    for walk in walks:
        walk.kept = {}


def _placeholders(gm: fx.GraphModule) -> list[str]:
    return [node.name for node in gm.graph.nodes if node.op == "placeholder"]


def _write_emulated(gm: fx.GraphModule, ctx: PassContext) -> None:
    """Write each emulated product as one call, of the arguments that an op has: operand, weight, bias, ..., dtype."""
    for product, sites in products(ctx):
        if product.plan.product is None:
            root = product.root
            with gm.graph.inserting_before(root):
                arguments = (uncast(product.x), product.parts, uncast(product.bias), value(root).dtype)
                whole = gm.graph.call_function(product.plan.emulate, arguments)
            substitute(root, whole)
            for site in sites:
                site.move(whole)


def _switch(ctx: PassContext, site: Site, row: int) -> Switch:
    assert site.plan is not None
    stored: Any = site.node.args[1]
    outputs = (stored.name,) if isinstance(stored, fx.Node) else tuple(part.name for part in stored)
    (constant,) = (constant for constant in ctx.constants if constant.outputs == outputs)
    names = tuple(name for name in (site.module, *site.found.parameters) if name)
    plan = site.plan.inner
    return Switch(plan, names, row, weight_of_op(site.plan, constant.graph), constant.sources, (site.found.n, site.found.k))


def weight_of_op(plan: Plan, graph: fx.Graph) -> fx.Graph:
    """Return the part of a packed weight's computation ``graph`` that ends before the op of ``plan`` treats and quantizes it."""
    if not any(calls(node, *QUANTIZE) for node in graph.nodes):
        raise DebugError("a weight of the model is low-bit already, and has no float values to compare with: load the float model")
    weight = float_weight(graph) if plan == plan.inner else treated_weight(graph)
    part = fx.Graph()
    copies = copied([node for node in graph.nodes if node.op == "placeholder" or node <= weight], part)
    part.output((copies[weight],))
    return part
