"""The linears of a model that a recipe quantizes, and a linear at work."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lowbit_compiler.passes.plan import MIN_K, MIN_N, plan_of
from lowbit_compiler.recipes import Recipe
from lowbit_compiler.runtime.products import Plan
from lowbit_compiler.runtime.treatments.treatment import at_once

HEAD = 4096
"""From so many outputs on, four times the inputs, a linear beside the blocks is taken for an output head."""
NEAREST = "nearest"
"""Who made parts that no method made."""


@dataclass(eq=False)
class Layer:
    """One ``nn.Linear``, how the recipe computes it, and the parts of its weight once some method has made them."""

    name: str
    module: nn.Linear
    plan: Plan
    parts: tuple[Tensor, ...] | None = None
    made_by: list[str] = field(default_factory=list)

    @property
    def treated(self) -> Tensor:
        """The weight as it is quantized: float32 [N, K padded]."""
        weight: Tensor = self.plan.treatment.weight(at_once, self.module.weight.detach().float())
        return weight

    def settled(self) -> tuple[Tensor, ...]:
        """Return the parts; where no method made any, from here on those that compiling makes without any preparation."""
        if self.parts is None:
            self.parts = self.plan.w.quantize(self.treated)
            self.made_by.append(NEAREST)
        return self.parts

    def give(self, parts: tuple[Tensor, ...], method: str) -> None:
        """Set the parts, which ``method`` made."""
        self.parts = parts
        self.made_by.append(method)


def layers(model: nn.Module, recipe: Recipe) -> list[Layer]:
    """Return the linears of ``model`` that ``recipe`` quantizes, each weight once; output heads, which are kept in more bits, are left out."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    seen: set[int] = set(tables)
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and id(module.weight) not in seen:
            seen.add(id(module.weight))
            n, k = module.weight.shape
            if k >= MIN_K and n >= MIN_N:
                found.append(Layer(name, module, plan_of(recipe, (name, f"{name}.weight")) or recipe.plan))
    return found


def is_head(layer: Layer) -> bool:
    """Return whether a linear beside the blocks maps to a vocabulary."""
    n, k = layer.module.weight.shape
    return n >= max(HEAD, 4 * k)


@contextlib.contextmanager
def low_bit(layers: Iterable[Layer]) -> Iterator[None]:
    """Let the modules of ``layers`` compute what a compiled model would, with the parts that they have; in a block, quantized once."""
    with contextlib.ExitStack() as stack:
        for layer in layers:
            if layer.parts is not None:
                stack.enter_context(_instead(layer, layer.plan.w.dequantize(layer.parts)))
        yield


def keep_low_bit(layer: Layer) -> contextlib.AbstractContextManager[None]:
    """Return a context as :func:`low_bit` for one layer, which holds no float weight: the parts are dequantized at every call."""
    return _instead(layer, None)


@contextlib.contextmanager
def _instead(layer: Layer, weight: Tensor | None) -> Iterator[None]:
    module, plan = layer.module, layer.plan

    def forward(x: Tensor) -> Tensor:
        assert layer.parts is not None
        return plan.multiply(x, plan.w.dequantize(layer.parts) if weight is None else weight, module.bias)

    with replaced(module, forward):
        yield


@contextlib.contextmanager
def replaced(module: nn.Module, forward: object) -> Iterator[None]:
    """Let ``module`` call ``forward`` instead of its own."""
    before = vars(module).get("forward")
    vars(module)["forward"] = forward
    try:
        yield
    finally:
        del vars(module)["forward"]
        if before is not None:
            vars(module)["forward"] = before


def inputs_of(layer: Layer, x: Tensor) -> Tensor:
    """Return the rows of an input as float32 [M, K]."""
    return x.detach().reshape(-1, x.shape[-1]).to(torch.float32)
