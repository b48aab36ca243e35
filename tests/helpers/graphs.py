"""A function or module and its inputs -> captured graph and context, in one line."""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from lowbit_compiler.capture.captured import Captured
from lowbit_compiler.capture.dynamo import capture_dynamo
from lowbit_compiler.compile.constants import compute
from lowbit_compiler.passes.contract import Fact, Pass, PassContext, Target
from lowbit_compiler.passes.pipeline import runtime_exit, waist
from lowbit_compiler.passes.runner import PassRun, run_passes
from lowbit_compiler.recipes import Recipe, find_recipe


def capture(fn: Callable[..., Any], *inputs: Any, dynamic: bool | None = False) -> tuple[Captured, list[Any]]:
    """Return the graph of ``fn`` as captured from torch.compile, and the values of its inputs."""
    found: list[tuple[Captured, list[Any]]] = []

    def backend(gm: fx.GraphModule, examples: list[Any]) -> Callable[..., Any]:
        found.append((capture_dynamo(gm, examples), list(examples)))
        return gm.forward

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(fn, backend=backend, fullgraph=True, dynamic=dynamic)(*inputs)
    return found[0]


def context(captured: Captured, recipe: str | Recipe = "int8", **options: Any) -> PassContext:
    """Return a context for the captured graph."""
    return PassContext(find_recipe(recipe), Target(), captured.parameters, **options)


def run_until(captured: Captured, ctx: PassContext, last: str | None = None, **options: Any) -> tuple[set[Fact], list[PassRun]]:
    """Run the pipeline up to and with the pass named ``last`` (all of it without a name), strictly."""
    facts: set[Fact] = set()
    runs = run_passes(waist() + runtime_exit(), captured.gm, ctx, facts=facts, stop_after=last, strict=True, **options)
    return facts, runs


def calls(gm: fx.GraphModule) -> list[str]:
    """Return the targets of the graph's calls in order, without overload names."""
    return [_name(node) for node in gm.graph.nodes if node.op in ("call_function", "call_method")]


def _name(node: fx.Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target).rpartition(".")[0]
    return node.target if isinstance(node.target, str) else node.target.__name__


def evaluate(gm: fx.GraphModule, ctx: PassContext, names: list[str], examples: list[Any]) -> Any:
    """Interpret the graph, computing folded constants from their sources."""
    values = dict(zip(names, examples, strict=True))
    for constant in ctx.constants:
        with torch.no_grad():
            results = compute(constant.graph, *(values[source] for source in constant.sources))
        values.update(zip(constant.outputs, results, strict=True))
    with torch.no_grad():
        inputs = [values[node.name] for node in gm.graph.nodes if node.op == "placeholder"]
        return fx.Interpreter(fx.GraphModule(gm, gm.graph)).run(*inputs)


def before_and_after(fn: Callable[..., Any], inputs: tuple[Any, ...], last: str, recipe: str | Recipe = "int8", **options: Any) -> Any:
    """Capture, run up to ``last``; returns (captured, ctx, float outputs, outputs after)."""
    captured, examples = capture(fn, *inputs)
    names = [node.name for node in captured.gm.graph.nodes if node.op == "placeholder"]
    ctx = context(captured, recipe, **options)
    want = evaluate(captured.gm, ctx, names, examples)
    run_until(captured, ctx, last)
    return captured, ctx, want, evaluate(captured.gm, ctx, names, examples)


def rerun(p: Pass, captured: Captured, ctx: PassContext) -> int:
    """Return how many places a second run of ``p`` rewrites."""
    return p.run(captured.gm, ctx)


class TwoLinears(nn.Module):
    """Siblings on one input and a third product: the smallest model in which every pass has work."""

    def __init__(self, dtype: torch.dtype = torch.float32, bias: bool = True) -> None:
        super().__init__()
        self.q = nn.Linear(96, 64, bias, dtype=dtype)
        self.k = nn.Linear(96, 32, bias, dtype=dtype)
        self.o = nn.Linear(64, 96, bias, dtype=dtype)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.o(self.q(x).relu()), self.k(x).relu()
