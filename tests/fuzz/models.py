"""Random models, written out as source that a person can read: steps over a pool of tensors [batch, tokens, width].

One seed is one model with its inputs. No step compares computed numbers, so that a result depends continuously on every rounding.
"""

import math
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from fuzz.steps import STEPS
from fuzz.writer import Writer
from torch import Tensor, nn

INPUTS = "x, y, mask"


@torch.library.custom_op("fuzz::flat", mutates_args=())
def flat(x: Tensor) -> Tensor:
    """Return ``x`` as an op reads it that takes an address and a size."""
    return torch.as_strided(x, (x.numel(),), (1,)).reshape(x.shape).clone()


@flat.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype)


@dataclass
class Case:
    """A model, its inputs, and how it is to be called."""

    seed: int
    model: nn.Module
    inputs: tuple[Tensor, ...]
    source: str
    autocast: bool
    dynamic: bool

    @property
    def title(self) -> str:
        """What a failure says first."""
        x = self.inputs[0]
        how = " in autocast" * self.autocast + " with dynamic sizes" * self.dynamic
        return f"model {self.seed}: {tuple(x.shape)} {str(x.dtype)[6:]}{how}"


def random_case(seed: int) -> Case:
    """Return the model of ``seed`` and its inputs: the first that torch itself can run."""
    return next(case for case in (_case(seed, attempt) for attempt in range(100)) if _runs(case))


def _runs(case: Case) -> bool:
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=case.autocast):
            results = case.model(*(x.clone() for x in case.inputs))
    except (RuntimeError, IndexError):  # such as a write to memory that two elements share
        return False
    return all(bool(torch.isfinite(x).all()) for x in results if x.is_floating_point())


def _case(seed: int, attempt: int) -> Case:
    random = Random(f"{seed}, {attempt}")
    torch.manual_seed(1000 * seed + attempt)
    heads, batch = random.choice([1, 2, 4]), random.choice([1, 2, 3])
    writer = Writer(random, heads * random.choice([16, 24, 32]), random.choice([1, 2, 7, 16]), heads)
    if writer.width < 32:
        writer.width *= 2
    if writer.often(0.8):  # else the caller's own tensors are written to
        writer.do("x, y = x.clone(), y.clone()")
    weights, steps = zip(*STEPS, strict=True)
    for step in random.choices(steps, weights, k=random.randint(2, 7)):
        step(writer)
        if writer.often(0.3):
            writer.new(f"F.layer_norm({writer.recent()}, ({writer.width},))")
    results = writer.pool[-3:] if writer.often(0.5) else [*writer.pool]
    source = "\n    ".join([f"def forward(self, {INPUTS}):", *writer.lines, f"return {', '.join(dict.fromkeys(results))},"])
    dtype = random.choice([torch.float32, torch.float32, torch.bfloat16, torch.float16])
    model = _model(writer.module, source).to(dtype).eval().requires_grad_(False)
    x, y = (torch.randn(batch, writer.tokens, writer.width).to(dtype) for _ in range(2))
    mask = (torch.rand(writer.tokens, writer.tokens) > 0.4).fill_diagonal_(True)
    autocast = dtype is torch.float32 and random.random() < 0.2
    return Case(seed, model, (x, y, mask), source, autocast, dynamic=random.random() < 0.15)


def _model(module: nn.Module, source: str) -> nn.Module:
    scope: dict[str, Any] = {"torch": torch, "F": F, "math": math}
    exec(source, scope)  # noqa: S102  written above
    return type("Model", (Holder,), {"forward": scope["forward"]})(module)  # type: ignore[no-any-return]


class Holder(nn.Module):
    """A model with the parameters of another module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._modules.update(module._modules)
        self._parameters.update(module._parameters)
