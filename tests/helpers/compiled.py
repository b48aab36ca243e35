"""Compile a model with backend "lowbit" and look at what happened: outputs, reports, and the products that it should contain."""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from lowbit_compiler.compile import history
from lowbit_compiler.report import Report, SiteReport
from lowbit_compiler.runtime import library

NATIVE = library.status().path is not None
"""Without the native library softmax and attention stay torch's."""
FACTORS = {"mm": 0, "addmm": 1, "bmm": 0, "baddbmm": 1, "mv": 0, "dot": 0, "vdot": 0, "_grouped_mm": 0}
"""Product -> position of its first factor; the second follows."""
COSINE = 0.99
"""The project's own bound for randomly initialised models."""
SOFTMAX = ("_softmax", "_log_softmax", "_safe_softmax")


def compiled(
    model: Any, recipe: Any = "int8", *, fullgraph: bool = True, dynamic: bool | None = None, **options: Any
) -> Callable[..., Any]:
    """Return ``model`` compiled with lowbit, the rest of the graph in eager mode; what is rewritten does not depend on timings."""
    options = {"recipe": recipe, "remainder": "eager", "plan": "always", **options}
    return torch.compile(model, backend="lowbit", fullgraph=fullgraph, dynamic=dynamic, options=options)  # type: ignore[no-any-return]


def reports_of(run: Callable[[], Any]) -> tuple[Any, list[Report]]:
    """Return what ``run()`` returns, and the report of every graph compiled meanwhile."""
    history._reports.clear()
    result = run()
    return result, list(history._reports)


def linears(report: Report) -> list[SiteReport]:
    """Return the products that were rewritten."""
    return [site for site in report.rewritten if site.kind == "linear"]


def wholes(report: Report) -> list[SiteReport]:
    """Return the softmaxes and attentions that were rewritten."""
    return [site for site in report.rewritten if site.kind in ("softmax", "attention")]


def cosine(got: Tensor, want: Tensor) -> float:
    """Return the cosine of two tensors as vectors, in float64."""
    return float(torch.nn.functional.cosine_similarity(got.double().flatten(), want.double().flatten(), 0))


def changed(run: Callable[..., Any], model: Any, x: Tensor, change: Callable[[Any], Any]) -> tuple[Tensor, Tensor]:
    """Return what ``run``, the compiled ``model``, and the model itself give for ``x`` after ``change(model)``, which ``run`` must notice."""
    before = run(x)
    assert torch.equal(run(x), before)
    change(model)
    got, want = run(x), model(x)
    assert not torch.equal(got, before)
    return got, want


class Products(TorchDispatchMode):
    """Lists what an eager run multiplies: ``work``, the scalar products of each call; and counts softmaxes and convolutions.

    A convolution whose windows lie side by side is a product.
    """

    def __init__(self) -> None:
        super().__init__()
        self.work: list[int] = []
        self.softmax = self.convolution = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in FACTORS:
            first = FACTORS[name]
            self.work.append(multiplications(args[first].shape, args[first + 1].shape))
        self.softmax += name in SOFTMAX
        result = func(*args, **(kwargs or {}))
        if name == "convolution":
            if list(args[3]) == list(args[1].shape[2:]) and not any(args[4]):
                self.work.append(result.numel() * args[1][0].numel())
            else:
                self.convolution += 1
        return result


def eager(model: Callable[..., Any], inputs: dict[str, Any]) -> tuple[Any, Products]:
    """Run the float model with its attentions and fused forwards taken apart; returns its output and its products."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), Products() as products:
            return model(**inputs), products
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def within_graphs(model: Callable[..., Any], inputs: dict[str, Any]) -> Products:
    """Return what the float model multiplies inside the graphs that Dynamo makes of it."""
    products = Products()

    def backend(gm: fx.GraphModule, examples: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with products:
                return gm.forward(*args)

        return run

    torch._dynamo.reset()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        torch.compile(model, backend=backend)(**inputs)
    torch._dynamo.reset()
    return products


def multiplications(a: Iterable[int], b: Iterable[int]) -> int:
    """Return the scalar products in ``a @ b``; of a grouped product where ``b`` alone is batched, those of one group a row."""
    a, b = list(a), list(b)
    if len(b) == 1:
        return math.prod(a)
    batch = torch.broadcast_shapes(a[:-2], b[:-2]) if len(a) >= len(b) else ()
    return math.prod(batch) * math.prod(a[-2:]) * b[-1]


def shapes(site: SiteReport) -> list[list[int]]:
    """Return the operand shapes in a row of the report (for a linear: rows x K, K x N)."""
    if site.kind == "linear":
        m, k, n = (int(size) for size in re.fullmatch(r"(\d+) x (\d+) -> (\d+)", site.shape).groups())  # type: ignore[union-attr]
        return [[m, k], [k, n]]
    return [[int(size) for size in operand.split("x")] for operand in site.shape.split(" , ")]


def work(site: SiteReport) -> list[int]:
    """Return the scalar products of each product in a row of the report: an attention has two, a softmax none."""
    operands = shapes(site)
    if site.kind == "attention":
        query, key, value = operands[:3]
        pairs = math.prod(query[:-1]) * key[-2]
        return [pairs * query[-1], pairs * value[-1]]
    if site.op.startswith("einsum") and site.kind == "matmul":
        letters = re.findall("[a-zA-Z]+", site.op.partition("->")[0].removeprefix("einsum "))
        sizes = {c: size for part, shape in zip(letters, operands, strict=True) for c, size in zip(part, shape, strict=True)}
        return [math.prod(sizes.values())]
    if site.kind in ("linear", "matmul"):
        first = FACTORS.get(site.op, 0) if site.kind == "matmul" else 0
        return [multiplications(*operands[first : first + 2])]
    return []
