"""Whole models in float but for their attentions, written out or by torch's function: close to the float model, and listed as rewritten."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import zoo
from helpers.compiled import NATIVE, compiled, cosine, eager, reports_of, work
from lowbit_compiler.debug.replay import floats
from lowbit_compiler.report import Report
from lowbit_compiler.runtime import timings

pytestmark = pytest.mark.skipif(not NATIVE, reason="without the native library nothing here is rewritten")

EPS = torch.finfo(torch.float32).eps
MODELS: dict[str, tuple[Callable[[], tuple[nn.Module, dict[str, Any]]], int]] = {
    "llama": (zoo.causal("Llama"), 2),
    "bert": (zoo.bert, 2),
    "t5": (zoo.t5, 6),
    "gpt2": (zoo.gpt2, 2),
    "opt": (zoo.opt, 2),
    "vit": (zoo.vit, 2),
    "mistral": (zoo.causal("Mistral", sliding_window=8), 2),
}


def run(model: nn.Module, inputs: dict[str, Any], **options: Any) -> tuple[list[Tensor], Report]:
    with torch.no_grad():
        got, (report,) = reports_of(lambda: compiled(model, ignore="re:weight$", **options)(**inputs))
    assert not report.fallback
    return floats(got), report


# Each family writes it out in a way of its own; torch's function is called alike by all, but for T5's bias.
@pytest.mark.parametrize(("name", "how"), [*((name, "eager") for name in MODELS), ("llama", "sdpa"), ("t5", "sdpa")])
def test_model(name: str, how: str) -> None:
    make, attentions = MODELS[name]
    model, inputs = make()
    model.set_attn_implementation(how)  # type: ignore[operator]
    want, products = eager(model, inputs)
    got, report = run(model, inputs)
    for ours, theirs in zip(got, floats(want), strict=True):
        assert ((ours - theirs).abs() <= 256 * EPS * theirs.abs().max()).all()
    assert [site.kind for site in report.rewritten] == ["attention"] * attentions
    assert {site.lowered_to for site in report.rewritten} == {"lowbit::sdpa"}
    assert sorted(size for site in report.sites for size in work(site)) == sorted(products.work)
    assert sum(site.kind in ("softmax", "attention") for site in report.sites) == products.softmax


def test_returned_weights_keep_the_products() -> None:
    model, inputs = zoo.bert()
    model.set_attn_implementation("eager")  # type: ignore[operator]
    inputs["output_attentions"] = True
    want, _ = eager(model, inputs)
    got, report = run(model, inputs)
    for ours, theirs in zip(got, floats(want), strict=True):
        assert ((ours - theirs).abs() <= 256 * EPS * theirs.abs().max()).all()
    assert [site.kind for site in report.rewritten] == ["softmax"] * 2


def test_grouped_heads_at_every_length() -> None:
    """One graph for all lengths, with key heads that are never repeated."""
    model, _ = zoo.causal("Llama")()
    runner = compiled(model, ignore="re:weight$", dynamic=True)

    def lengths() -> None:
        with torch.no_grad(), torch._dynamo.config.patch(specialize_float=True):  # as Inductor asks for
            for tokens in (5, 9, 12):
                ids = zoo.ids(tokens=tokens)
                torch.testing.assert_close(runner(input_ids=ids).logits, model(input_ids=ids).logits)

    _, reports = reports_of(lengths)
    assert len(reports) == 1
    assert len(reports[0].rewritten) == 2


class Scaled(nn.Module):
    """An attention whose scale is an attribute of the module, as in transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.scaling = nn.Linear(64, 64), 0.3

    def forward(self, x: Tensor) -> Tensor:
        q = self.project(x).view(x.shape[0], x.shape[1], 4, 16).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(q, q, q, scale=self.scaling)


def test_inductor_with_dynamic_shapes() -> None:
    """A scale that Dynamo first traces as a variable is a constant in the end."""
    model, x = Scaled().eval(), torch.randn(2, 5, 64)
    with torch.no_grad():
        runner = compiled(model, "int8-weight-only", dynamic=True, remainder="inductor")
        got, (report,) = reports_of(lambda: runner(x))
        assert torch.nn.functional.cosine_similarity(got.flatten(), model(x).flatten(), 0) > 0.99
    assert not report.fallback
    assert [site.lowered_to for site in report.rewritten] == ["lowbit::linear_fs8", "lowbit::sdpa"]


@pytest.mark.parametrize("how", ["eager", "sdpa"])
@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_generate(cache: str, how: str) -> None:
    """In every step, with a cache that is written in place or one that grows."""
    model: Any = zoo.causal("Llama", num_hidden_layers=1, use_cache=True, eos_token_id=None)()[0]
    model.set_attn_implementation(how)
    ids = zoo.ids(tokens=6)
    settings = {"max_new_tokens": 5, "do_sample": False, "cache_implementation": cache, "disable_compile": True}
    want = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    model.forward = compiled(model.forward, ignore="re:weight$")
    got, reports = reports_of(lambda: model.generate(ids, attention_mask=torch.ones_like(ids), **settings))
    assert torch.equal(got, want)
    assert len(reports) <= 3
    for report in reports:
        assert [site.kind for site in report.rewritten] == ["attention"]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("how", ["eager", "sdpa"])
def test_verified(monkeypatch: pytest.MonkeyPatch, how: str, dynamic: bool) -> None:
    monkeypatch.setenv("LOWBIT_VERIFY", "each")
    model, inputs = zoo.causal("Llama", num_hidden_layers=1)()
    model.set_attn_implementation(how)  # type: ignore[operator]
    with torch._dynamo.config.patch(specialize_float=True):
        _, report = run(model.bfloat16(), inputs, dynamic=dynamic)
    assert len(report.rewritten) == 1


def test_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """By default every softmax and attention is timed, and the report says what came of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(timings, "NOISE", 1e9)  # remembered, however busy the machine is
    monkeypatch.setattr(timings, "quiet", lambda: True)
    model, inputs = zoo.causal("Llama")()
    _, report = run(model, inputs, plan="measured")
    (file,) = (tmp_path / "lowbit").iterdir()
    assert file.name.startswith("timings-")
    timed = [site for site in report.sites if site.kind in ("softmax", "attention")]
    assert len(timed) == 2
    for site in timed:
        assert "torch" in site.detail
        assert site.reason in ("", "slower here")


def test_sizes_that_vary_leave_scales_and_epsilons_constant() -> None:
    """Under dynamic=True Dynamo makes inputs of the floats that modules hold, which no kernel takes."""
    model, inputs = zoo.causal("Llama")()
    reports = []
    for dynamic in (False, True):
        torch.compiler.reset()
        with torch.no_grad():
            run = torch.compile(model, backend="lowbit", dynamic=dynamic, options={"plan": "always"})
            got, (report,) = reports_of(lambda run=run: run(**inputs))
        for ours, theirs in zip(floats(got), floats(eager(model, inputs)[0]), strict=True):
            assert cosine(ours, theirs) > 0.99
        reports.append([(site.module, site.lowered_to) for site in report.sites])
    assert reports[0] == reports[1]
    assert "lowbit::sdpa" in {lowered for _, lowered in reports[1]}
