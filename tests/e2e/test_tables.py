"""What is quantized by default: products with parameters of modules; a constant that comes from no parameter stays in float."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from helpers.compiled import compiled, cosine, reports_of
from lowbit_compiler.report import SiteReport


class FilterBank(nn.Module):
    """A spectrogram's mel filters, and a Fourier matrix that is a plain attribute; the classifier after them is a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mel", torch.rand(64, 48), persistent=False)
        angles = torch.outer(torch.arange(64.0), torch.arange(64.0)) * (2 * torch.pi / 64)
        self.fourier = torch.cos(angles)
        self.register_buffer("grid", torch.rand(48, 48).half())
        self.classifier = nn.Linear(48, 32)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = (x @ self.fourier).square()
        mel = torch.matmul(spectrum, self.mel).clamp(min=1e-6).log()
        return self.classifier(F.linear(mel, self.grid.float().t() / 48))


class Frozen(nn.Module):
    """A layer whose weights are buffers on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)
        for name in ("weight", "bias"):
            value = getattr(self.layer, name).detach()
            delattr(self.layer, name)
            self.layer.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Masked(nn.Module):
    """A parameter times a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 64) / 8)
        self.register_buffer("mask", (torch.rand(64, 64) > 0.5).float())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask)


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("by", torch.rand(64, 64))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.by


def pruned() -> nn.Module:
    return prune.l1_unstructured(nn.Linear(64, 64), "weight", 0.5)


def parametrized() -> nn.Module:
    model = nn.Linear(64, 64)
    parametrize.register_parametrization(model, "weight", Doubled())
    return model


def spectral() -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(nn.Linear(64, 64))


def products(model: nn.Module, **options: Any) -> list[SiteReport]:
    x = torch.randn(8, 64)
    with torch.no_grad():
        want = model(x)
        got, (report,) = reports_of(lambda: compiled(model, **options)(x))
    assert not report.fallback
    assert cosine(got, want) > 0.99
    return [site for site in report.sites if site.detail != "computed from parameters alone"]


def test_tables_stay_in_float() -> None:
    *tables, classifier = products(FilterBank().eval())
    assert [(site.decision, site.reason) for site in tables] == [("declined", "constant table")] * 3
    for site, name in zip(tables, ("fourier", "mel", "grid"), strict=True):
        assert site.detail.startswith(f"{name}: ")
        assert "options={'buffers': 'quantized'}" in site.detail
    assert (classifier.module, classifier.decision) == ("classifier", "rewritten")


def test_tables_are_quantized_where_asked_for() -> None:
    found = products(FilterBank().eval(), buffers="quantized")
    assert [(site.module, site.decision) for site in found] == [
        ("fourier", "rewritten"), ("mel", "rewritten"), ("grid", "rewritten"), ("classifier", "rewritten"),
    ]  # fmt: skip
    found = products(FilterBank().eval(), buffers="quantized", ignore=["mel"])
    assert [site.reason for site in found] == ["", "filtered by the user", "", ""]


def test_weights_that_are_buffers_stay_in_float_and_say_how_to_change_that() -> None:
    (site,) = products(Frozen().eval())
    assert (site.module, site.reason) == ("layer", "constant table")
    assert site.detail == "layer.weight: no nn.Parameter; options={'buffers': 'quantized'} takes it for a weight"
    (site,) = products(Frozen().eval(), buffers="quantized")
    assert site.decision == "rewritten"


@pytest.mark.parametrize("make", [Masked, pruned, parametrized, spectral], ids=lambda make: make.__name__)
def test_a_parameter_with_buffers_is_a_weight(make: Callable[[], nn.Module]) -> None:
    (site,) = products(make().eval())
    assert site.decision == "rewritten", site
