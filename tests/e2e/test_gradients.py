"""Gradients, inference mode and autocast: float where autograd records, low precision everywhere else."""

import logging

import pytest
import torch

from helpers.block import block
from helpers.compiled import COSINE, compiled, cosine, linears, reports_of


def test_training_mode_has_exact_gradients() -> None:
    model, x = block()
    model.train()
    model(x).sum().backward()
    want = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    _, (report,) = reports_of(lambda: compiled(model)(x).sum().backward())
    for parameter, gradient in zip(model.parameters(), want, strict=True):
        assert parameter.grad is not None
        assert gradient is not None
        assert torch.equal(parameter.grad, gradient)
    assert report.fallback == "graph needs gradients"
    assert {site.reason for site in report.sites} == {"graph needs gradients"}
    assert len(report.sites) == 7
    assert all("no_grad" in site.detail for site in report.sites)


def test_gradients_wanted_in_eval_mode(caplog: pytest.LogCaptureFixture) -> None:
    model, x = block()
    with caplog.at_level(logging.WARNING, "lowbit_compiler"):
        got, (report,) = reports_of(lambda: compiled(model)(x))
    assert torch.equal(got, model(x))
    assert got.requires_grad
    assert report.fallback
    assert not report.rewritten
    assert any("no_grad" in record.getMessage() for record in caplog.records)


def test_frozen_parameters_need_no_no_grad() -> None:
    model, x = block()
    model.requires_grad_(False)
    _, (report,) = reports_of(lambda: compiled(model)(x))
    assert len(linears(report)) == 5


def test_inference_mode() -> None:
    model, x = block()
    run = compiled(model)
    with torch.inference_mode():
        got, (report,) = reports_of(lambda: run(x))
        assert cosine(got, model(x)) > COSINE
    assert len(linears(report)) == 5


def test_train_after_inference() -> None:
    """One compiled model: quantized without gradients, float with them, and the other way round."""
    model, x = block()
    run = compiled(model)
    with torch.no_grad():
        low = run(x)
    assert torch.equal(run(x), model(x))
    with torch.no_grad():
        assert torch.equal(run(x), low)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_around(dtype: torch.dtype) -> None:
    """Autocast decides the dtype of a result, never how the low-bit product is computed."""
    model, x = block()
    with torch.no_grad(), torch.autocast("cpu", dtype):
        want = model(x)
        got, (report,) = reports_of(lambda: compiled(model)(x))
    assert got.dtype is want.dtype is dtype
    assert cosine(got, want) > COSINE
    assert len(linears(report)) == 5
    assert not report.fallback
