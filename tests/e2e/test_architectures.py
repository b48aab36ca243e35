"""Small models of many families: each compiles, agrees with the float model, and has a complete report."""

from typing import Any

import pytest
import torch

from helpers import zoo
from helpers.compiled import compiled, cosine, eager, floats, linears, reports_of, work
from helpers.minilm import load as load_minilm
from lowbit_compiler.report import Report

COSINE = 0.99  # the project's own bound for randomly initialised models
RECIPES = [
    *((case, case.recipe) for case in zoo.CASES),
    *((case, recipe) for case in zoo.CASES for recipe in ("llm-int8", "int8-weight-only") if case.name in ("encoder", "einsum", "cells")),
]


def check_report(report: Report, model: torch.nn.Module) -> None:
    """Every row says where (a module or parameter of the model, by its name), what and why."""
    assert not report.fallback
    names = {"(function)", *dict(model.named_modules()), *dict(model.named_parameters())}
    for site in report.sites:
        assert site.module in names, site
        assert site.shape, site
        assert site.op, site
        assert site.decision in ("rewritten", "declined"), site
        if site.decision == "rewritten":
            lowered = {"softmax": "lowbit::softmax", "attention": "lowbit::sdpa"}.get(site.kind, "lowbit::linear_")
            assert site.lowered_to.startswith(lowered), site
            assert site.kernel, site
        else:
            assert site.reason, site
            assert site.detail, site


@pytest.mark.parametrize(("case", "recipe"), RECIPES, ids=[f"{case.name}-{recipe}" for case, recipe in RECIPES])
def test_family(case: zoo.Case, recipe: str) -> None:
    model, inputs = case.make()
    want, products = eager(model, inputs)
    with torch.no_grad():
        got, reports = reports_of(lambda: compiled(model, recipe, fullgraph=case.fullgraph)(**inputs))
    assert type(got) is type(want)
    for ours, theirs in zip(floats(got), floats(want), strict=True):
        assert ours.dtype is theirs.dtype
        assert ours.shape == theirs.shape
        assert cosine(ours, theirs) > COSINE
    for report in reports:
        check_report(report, model)
    sites = [site for report in reports for site in report.sites]
    assert sum(len(linears(report)) for report in reports) >= case.rewritten - (recipe == "llm-int8")  # which keeps the head
    assert sum(site.kind == "convolution" for site in sites) == products.convolution
    if case.fullgraph:  # a graph break leaves products outside of every graph
        assert sum(work(site) for site in sites) == products.work
        assert sum(site.kind in ("softmax", "attention") for site in sites) == products.softmax


def test_recurrent_layer_is_listed() -> None:
    """Where Dynamo traces an LSTM at all, it is one opaque call."""
    model, inputs = zoo.Convolutional().eval(), {"x": torch.randn(2, 20, 15)}
    want, _ = eager(model, inputs)
    with torch.no_grad(), torch._dynamo.config.patch(allow_rnn=True):
        got, (report,) = reports_of(lambda: compiled(model)(**inputs))
    check_report(report, model)
    assert cosine(got, want) > COSINE
    assert [site.module for site in linears(report)] == ["head"]
    assert "recurrent" in {site.kind for site in report.declined}


@pytest.mark.parametrize(
    ("name", "dynamic"), [("attention-padding", None), ("encoder", True), ("einsum", None), ("cells", True), ("opt", None)]
)
def test_dynamic_shapes(name: str, dynamic: bool | None) -> None:
    """Fused forwards are taken apart with symbolic sizes too."""
    model, inputs = next(case for case in zoo.CASES if case.name == name).make()
    run = compiled(model, dynamic=dynamic)

    def longer(tensor: torch.Tensor, batch: int) -> torch.Tensor:
        return torch.cat([tensor] * batch)

    reports: list[Report] = []
    for batch in (1, 2, 3):
        bigger = {key: longer(value, batch) for key, value in inputs.items()}
        want, _ = eager(model, bigger)
        with torch.no_grad():
            got, new = reports_of(lambda: run(**bigger))  # noqa: B023  called at once
        reports += new
        for ours, theirs in zip(floats(got), floats(want), strict=True):
            assert cosine(ours, theirs) > COSINE
    assert len(reports) <= 2
    for report in reports:
        check_report(report, model)
        assert linears(report)


def sentences() -> list[str]:
    return [
        "The capital of France is Paris.",
        "Paris is the seat of the French government.",
        "A cat sleeps on the warm windowsill.",
        "The kitten is napping in the sun.",
        "Interest rates were raised by half a percent.",
        "The central bank tightened its monetary policy.",
        "He repaired the old bicycle in an afternoon.",
        "Quantum computers use superposition and entanglement.",
        "She plays the violin in a string quartet.",
        "The recipe asks for two eggs and a cup of flour.",
    ]


@pytest.fixture(scope="module")
def minilm() -> Any:
    model, tokenizer = load_minilm()
    return model, dict(tokenizer(sentences(), padding=True, return_tensors="pt"))


def similarities(run: Any, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the cosine of every pair of sentences: mean of the token vectors, as the model's authors do."""
    with torch.no_grad():
        hidden = run(**tokens).last_hidden_state.double()
    mask = tokens["attention_mask"][..., None]
    mean = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    return mean @ mean.T


@pytest.mark.parametrize(("recipe", "dtype"), [("int8", torch.float32), ("int8", torch.bfloat16), ("llm-int8", torch.bfloat16)])
def test_minilm(minilm: Any, recipe: str, dtype: torch.dtype) -> None:
    """Real weights: no sentence similarity moves by 0.01 from float32 (the project's own bound)."""
    import copy

    model, tokens = minilm
    want = similarities(model, tokens)
    other = copy.deepcopy(model).to(dtype)
    got, (report,) = reports_of(lambda: similarities(compiled(other, recipe), tokens))
    check_report(report, model)
    assert len(linears(report)) >= 36
    assert (got - want).abs().max() < 0.01
