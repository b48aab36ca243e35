"""A model whose products have names of every kind, and how to read them in reports."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from helpers.compiled import reports_of
from lowbit_compiler.report import SiteReport

OPTIONS = {"remainder": "eager", "plan": "always"}
X = (8, 64)


class Layer(nn.Module):
    """``scale`` is a number that Dynamo guards on: layers of other scales get graphs of their own."""

    def __init__(self, breaks: bool = False, scale: int = 1) -> None:
        super().__init__()
        self.inner, self.breaks, self.scale = nn.Linear(64, 64), breaks, scale
        self.mix = nn.Parameter(torch.randn(64, 64) / 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.mix * self.scale
        if self.breaks:
            torch._dynamo.graph_break()
        return torch.relu(self.inner(x)) * self.scale


class Model(nn.Module):
    """Layers in a list, others by name, a head, and a module that this forward does not call."""

    def __init__(self, breaks: bool = False, alike: bool = False) -> None:
        super().__init__()
        self.encoder = nn.ModuleList([Layer(breaks), Layer(breaks, 1 if alike else 2)])
        self.by_name = nn.ModuleDict({"a": nn.Linear(64, 64), "b": nn.Sequential(nn.Linear(64, 64), nn.ReLU())})
        self.classifier = nn.Linear(64, 32)
        self.unused = nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder[1](self.encoder[0](x))
        return self.classifier(self.by_name["b"](self.by_name["a"](x)))


def sites(run: Callable[[], Any]) -> list[SiteReport]:
    """Return the rows of all reports of ``run``, in which nothing may have fallen back."""
    with torch.no_grad():
        _, reports = reports_of(run)
    assert not any(report.fallback for report in reports)
    return [site for report in reports for site in report.sites]


def modules(found: list[SiteReport]) -> list[str]:
    """Return the names of their modules."""
    return sorted({site.module for site in found})


PRODUCTS = ["by_name.a", "by_name.b.0", "classifier", "encoder.0", "encoder.0.inner", "encoder.1", "encoder.1.inner"]
