"""Small models of many families: each compiles, agrees with the float model, and has a complete report."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from helpers import layers, zoo
from helpers.case import Case
from helpers.compiled import COSINE, Products, compiled, cosine, eager, linears, reports_of, within_graphs, work
from helpers.minilm import load as load_minilm
from lowbit_compiler.debug.replay import floats
from lowbit_compiler.passes.contract import PassContext
from lowbit_compiler.passes.find import Find
from lowbit_compiler.passes.site import Reason
from lowbit_compiler.report import Report
from lowbit_compiler.runtime import kernels

RECIPES = [
    *((case, case.recipe) for case in zoo.CASES),
    *((case, recipe) for case in zoo.CASES for recipe in ("llm-int8", "int8-weight-only") if case.name in ("encoder", "einsum", "cells")),
]


REASONS = {reason.value for reason in Reason}
KERNELS = {kernel.name for kernel in kernels.kernels()} | {"reference"}


def check_report(report: Report, model: torch.nn.Module) -> None:
    """Every row says where (a module or parameter of the model, by its name), what, why, and with which kernel."""
    assert not report.fallback
    names = {"(function)", *dict(model.named_modules()), *dict(model.named_parameters())}
    for site in report.sites:
        assert site.module in names, site
        assert site.shape, site
        assert site.op, site
        assert site.node, site
        assert site.decision in ("rewritten", "declined"), site
        if site.decision == "rewritten":
            lowered = {"softmax": "lowbit::softmax", "attention": "lowbit::sdpa"}.get(site.kind, "lowbit::linear_")
            assert site.lowered_to.startswith(lowered), site
            assert site.kernel in KERNELS, site
            assert not site.reason, site
        else:
            assert site.reason in REASONS, site
            assert site.detail, site
            assert not site.lowered_to, site
            assert not site.kernel, site


def check_complete(reports: Sequence[Report], model: torch.nn.Module, inside: Products) -> None:
    """Every row is whole, and no product, softmax or convolution is without one; ``inside`` counts what the graphs compute."""
    for report in reports:
        check_report(report, model)
    sites = [site for report in reports for site in report.sites]
    # Each product for itself: of sums, one that is missing and one that is there twice would leave the same.
    assert sorted(size for site in sites for size in work(site)) == sorted(inside.work)
    assert sum(site.kind in ("softmax", "attention") for site in sites) == inside.softmax
    assert sum(site.kind == "convolution" for site in sites) == inside.convolution


@pytest.mark.parametrize(("case", "recipe"), RECIPES, ids=[f"{case.name}-{recipe}" for case, recipe in RECIPES])
def test_family(case: Case, recipe: str) -> None:
    model, inputs = case.make()
    want, products = eager(model, inputs)
    with torch.no_grad():
        got, reports = reports_of(lambda: compiled(model, recipe, fullgraph=case.fullgraph)(**inputs))
    assert type(got) is type(want)
    for ours, theirs in zip(floats(got), floats(want), strict=True):
        assert ours.dtype is theirs.dtype
        assert ours.shape == theirs.shape
        assert cosine(ours, theirs) > COSINE
    # A graph break leaves products outside of every graph.
    check_complete(reports, model, products if case.fullgraph else within_graphs(model, inputs))
    assert sum(len(linears(report)) for report in reports) >= case.rewritten - (recipe == "llm-int8")  # which keeps the head


def _report(name: str) -> tuple[Report, torch.nn.Module, Products]:
    model, inputs = next(case for case in zoo.CASES if case.name == name).make()
    _, products = eager(model, inputs)
    with torch.no_grad():
        _, (report,) = reports_of(lambda: compiled(model)(**inputs))
    check_complete([report], model, products)
    return report, model, products


@pytest.mark.parametrize("name", ["attention-weights", "einsum"])
def test_a_missing_site_would_be_seen(name: str) -> None:
    """The check above fails where any one row is missing, and where a row has no kernel, reason or detail."""
    report, model, products = _report(name)
    assert report.rewritten
    assert report.declined
    for index, site in enumerate(report.sites):
        gone = replace(report, sites=[*report.sites[:index], *report.sites[index + 1 :]])
        with pytest.raises(AssertionError):
            check_complete([gone], model, products)
        for field in ("kernel",) if site.decision == "rewritten" else ("reason", "detail"):
            bare = replace(report, sites=[*report.sites[:index], replace(site, **{field: ""}), *report.sites[index + 1 :]])
            with pytest.raises(AssertionError):
                check_complete([bare], model, products)


def test_a_site_that_is_not_found_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that overlooks one product leaves a report that the check refuses."""
    find = Find.run

    def overlook(self: Find, gm: torch.fx.GraphModule, ctx: PassContext) -> int:
        count = find(self, gm, ctx)
        del ctx.sites[0]
        return count

    monkeypatch.setattr(Find, "run", overlook)
    with pytest.raises(AssertionError, match="Right contains one more item"):
        _report("cells")


def test_recurrent_layer_is_listed() -> None:
    """Where Dynamo traces an LSTM at all, it is one opaque call."""
    model, inputs = layers.Convolutional().eval(), {"x": torch.randn(2, 20, 15)}
    want, _ = eager(model, inputs)
    with torch.no_grad(), torch._dynamo.config.patch(allow_rnn=True):
        got, (report,) = reports_of(lambda: compiled(model)(**inputs))
    check_report(report, model)
    assert cosine(got, want) > COSINE
    assert [site.module for site in linears(report)] == ["head"]
    assert "recurrent" in {site.kind for site in report.declined}


@pytest.mark.parametrize(
    ("name", "dynamic"), [("attention-padding", None), ("encoder", True), ("einsum", None), ("cells", True), ("opt", None), ("vit", True)]
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
    check_complete([report], model, eager(other, tokens)[1])
    assert len(linears(report)) >= 36
    assert (got - want).abs().max() < 0.01
