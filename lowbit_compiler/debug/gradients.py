"""Gradients of each low-bit product of a model that trains beside float64 ones: what is wrong always, and what is wrong at random."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lowbit_compiler.compile.explaining import alone
from lowbit_compiler.debug.replay import floats
from lowbit_compiler.debug.study import Samples, calls_of, run
from lowbit_compiler.errors import OptionError
from lowbit_compiler.options import parse
from lowbit_compiler.recipes.training import NAMES
from lowbit_compiler.runtime.training.plan import GRAD_INPUT, GRAD_WEIGHT, rows_of
from lowbit_compiler.training.rewrite import rewrite_training

SEEDS = 8
OP = torch.ops.lowbit.train_linear.default


@dataclass(frozen=True)
class Gradient:
    """One backward product of one linear, over all calls."""

    module: str
    product: str
    """dX or dW."""
    bias: float
    """What the mean over seeds is off, less what so few seeds leave of the noise: ``|E g - exact| / |exact|``."""
    variance: float
    """Of a seed's gradient, ``E |g - E g|^2 / |exact|^2``."""
    cosine: float
    """Of a seed's gradient and the exact one."""


@dataclass
class Gradients:
    """What :func:`gradients` found; ``str()`` is a table, ``to_json()`` plain data."""

    recipe: str
    seeds: int
    rows: list[Gradient] = field(default_factory=list)
    """In the order of the model; dX before dW."""

    def to_json(self) -> str:
        """Return plain data."""
        return json.dumps(asdict(self), indent=1)

    def __rich__(self) -> Any:
        from lowbit_compiler.debug.show import gradients

        return gradients(self)

    def __str__(self) -> str:
        from lowbit_compiler.debug.show import plain

        return plain(self)


def gradients(
    model: nn.Module,
    samples: Samples,
    recipe: str,
    *,
    seeds: int = SEEDS,
    progress: Callable[[str, int, int], None] | None = None,
    **options: Any,
) -> Gradients:
    """Return what the products of the backward pass under ``recipe`` differ by from float64 products of the same operands.

    The model runs in float, forward and backward, from its loss where its outputs have one, else from the sum of their first tensor
    times fixed normal numbers. At each linear that the recipe trains, dX and dW are computed with ``seeds`` seeds from what float
    gives there, so that a row is of its product alone. Gradients of the model's parameters stay as they are. ``samples`` are as in ``accuracy``,
    ``options`` those of the backend.

    Raises OptionError for a recipe that does not train, fewer than two seeds, and where nothing needs a gradient or no linear is trained.
    """
    parsed = parse({"recipe": recipe, **options})
    if parsed.training is None:
        raise OptionError(f"gradients are those of a recipe that trains: {', '.join(NAMES)}; got {recipe!r}")
    if seeds < 2:
        raise OptionError(f"seeds takes at least 2, got {seeds}")
    training, sums = parsed.training, dict[tuple[str, str], _Sums]()
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    calls = calls_of(samples)

    def backend(gm: fx.GraphModule, examples: Sequence[Any]) -> Callable[..., Any]:
        rewritten, report = rewrite_training(gm, examples, training, parsed)
        names = [site.module for site in report.rewritten if site.op == "linear forward"]
        _watch(rewritten, names, seeds, sums)
        return lambda *args: rewritten(*args, torch.zeros(1, dtype=torch.int64))

    with alone(), torch.enable_grad():
        compiled = torch.compile(model, backend=backend)
        for number, output in enumerate(run(compiled, calls, lambda: None), 1):
            scalar = _scalar(output)
            if not scalar.requires_grad:
                raise OptionError("nothing in this model needs a gradient")
            torch.autograd.grad(scalar, learning, allow_unused=True)
            if progress is not None:
                progress("gradients", number, len(calls))
    if not sums:
        raise OptionError(f"recipe {recipe!r} trains no linear of {type(model).__name__}")
    return Gradients(training.name, seeds, [each.result(*key) for key, each in sums.items()])


def _scalar(output: Any) -> Tensor:
    """Return what is differentiated."""
    loss = getattr(output, "loss", None)
    if isinstance(loss, Tensor):
        return loss
    found = floats(output)
    if not found:
        raise OptionError(f"the model's output holds no float tensor, got {type(output).__name__}")
    numbers = torch.randn(found[0].shape, generator=torch.Generator().manual_seed(0)).to(found[0].device)
    return (found[0].float() * numbers).sum()


def _watch(rewritten: fx.GraphModule, names: Sequence[str], seeds: int, sums: dict[tuple[str, str], "_Sums"]) -> None:
    """Let each op that trains compute in float, and compare the gradients that it would return; checkpointed bodies too."""
    graphs = [module for module in rewritten.modules() if isinstance(module, fx.GraphModule)]
    found = {node: graph for graph in graphs for node in graph.graph.nodes if node.target is OP}
    for node, name in zip(sorted(found, key=lambda node: node.args[4]), names, strict=True):
        node.target = _Probe(name, seeds, sums)
    for graph in graphs:
        graph.recompile()


class _Probe:
    """A linear in float, whose backward pass adds to ``sums``."""

    def __init__(self, module: str, seeds: int, sums: dict[tuple[str, str], "_Sums"]) -> None:
        self.__name__ = self.__qualname__ = "probe"
        self._module, self._seeds, self._sums = module, seeds, sums

    def __call__(self, x: Tensor, w: Tensor, bias: Tensor | None, seed: Tensor, *rest: Any) -> tuple[Tensor]:
        y = F.linear(x, w, bias)
        if y.requires_grad:
            y.register_hook(lambda dy: self._see(x, w, dy, rest))
        return (y,)

    def _see(self, x: Tensor, w: Tensor, dy: Tensor, rest: tuple[Any, ...]) -> None:
        needed = {GRAD_INPUT: x.requires_grad, GRAD_WEIGHT: w.requires_grad}
        x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
        rows, out = rows_of(x.detach()).double(), rows_of(dy).double()
        exact = {GRAD_INPUT: (out @ w.detach().double()).view_as(x), GRAD_WEIGHT: out.t() @ rows}
        for product, want in exact.items():
            if needed[product]:
                self._sums.setdefault((self._module, product), _Sums(self._seeds)).begin(want)
        with torch.enable_grad():
            for number in range(self._seeds):
                y = OP(x, w, None, torch.tensor([number], device=x.device), *rest)[0]
                for product, got in zip(exact, torch.autograd.grad(y, (x, w), dy), strict=True):
                    if needed[product]:
                        self._sums[self._module, product].add(got)
        for product in exact:
            if needed[product]:
                self._sums[self._module, product].end()


class _Sums:
    """Of one product, over calls: squared norms, and dot products with what is exact."""

    def __init__(self, seeds: int) -> None:
        self._seeds = seeds
        self._signal = self._bias = self._variance = self._dot = self._size = 0.0

    def begin(self, exact: Tensor) -> None:
        """Begin a call."""
        self._exact, self._sum, self._squares = exact, torch.zeros_like(exact), 0.0

    def add(self, got: Tensor) -> None:
        """Take the gradient of one seed."""
        g = got.double()
        self._sum += g
        self._squares += float(g.square().sum())
        self._dot += float((g * self._exact).sum())

    def end(self) -> None:
        """End the call: the mean of S draws is off by their variance over S, which is no bias."""
        mean = self._sum / self._seeds
        variance = max(self._squares - self._seeds * float(mean.square().sum()), 0.0) / (self._seeds - 1)
        self._bias += float((mean - self._exact).square().sum()) - variance / self._seeds
        self._variance += variance
        self._signal += float(self._exact.square().sum())
        self._size += self._squares
        del self._exact, self._sum

    def result(self, module: str, product: str) -> Gradient:
        """Return the row."""
        if self._signal == 0.0:
            return Gradient(module, product, math.nan, math.nan, math.nan)
        cosine = self._dot / math.sqrt(self._size * self._signal * self._seeds) if self._size else 0.0
        return Gradient(module, product, math.sqrt(max(self._bias, 0.0) / self._signal), self._variance / self._signal, cosine)
