"""What a user may rely on: the backend by its name, lengths, generation, special values, names to ignore, reports."""

import pytest
import torch
from torch import Tensor, nn

import lowbit_compiler
from helpers import forks, zoo
from helpers.block import block, llama
from helpers.compiled import COSINE, compiled, cosine, linears, reports_of
from lowbit_compiler.debug.replay import floats


def test_backend_string_without_import() -> None:
    script = """
import sys, torch
assert not any(name.startswith("lowbit") for name in sys.modules)
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64)).eval()
run = torch.compile(model, backend="lowbit", fullgraph=True, options={"remainder": "eager", "plan": "always"})
with torch.no_grad():
    x = torch.randn(3, 64)
    got, want = run(x), model(x)
assert torch.nn.functional.cosine_similarity(got.flatten(), want.flatten(), 0) > 0.99
assert not torch.equal(got, want)
print(sys.modules["lowbit_compiler"].last_report().summary())
"""
    done = forks.run(script)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 sites rewritten" in done.stdout


def test_the_last_token_of_a_prompt_of_any_length() -> None:
    """Its logits, of one sequence: sizes are numbers, the place in memory is symbolic."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(50, 64), nn.Linear(64, 96, bias=False)

        def forward(self, ids: Tensor) -> Tensor:
            logits: Tensor = self.head(self.embedding(ids)[:, -1:, :])
            return logits

    model = Head().eval()
    with torch.no_grad():
        run = compiled(model, dynamic=True)
        for length in (7, 9):
            ids = torch.arange(length)[None]
            got, reports = reports_of(lambda ids=ids: run(ids))
            assert cosine(got, model(ids)) > 0.99
            assert [site.lowered_to for report in reports for site in report.sites] == (
                ["lowbit::linear_s8s8_rotated"] if length == 7 else []
            )


@pytest.mark.parametrize("dynamic", [None, True])
def test_twenty_lengths(dynamic: bool | None) -> None:
    """One compilation for the first length and one for all others; with dynamic=True one in all (a length equal to 1 or to the batch may have its own)."""
    model = llama(num_hidden_layers=1)
    run = compiled(model, dynamic=dynamic)

    def every_length() -> None:
        with torch.no_grad():
            for tokens in range(3, 23):
                ids = zoo.ids(tokens=tokens)
                assert cosine(run(input_ids=ids).logits, model(input_ids=ids).logits) > COSINE

    _, reports = reports_of(every_length)
    assert len(reports) == (1 if dynamic else 2)
    assert all(len(linears(report)) == 8 for report in reports)
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_generate(cache: str) -> None:
    """generate() runs through the compiled model, one graph for the prompt and a bounded number for the steps."""
    model = llama(num_hidden_layers=1, use_cache=True, eos_token_id=None)
    ids = zoo.ids(tokens=6)
    settings = {"max_new_tokens": 6, "do_sample": False, "cache_implementation": cache, "disable_compile": True}
    want = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)  # type: ignore[operator]
    model.forward = compiled(model.forward, fullgraph=True)  # type: ignore[method-assign]
    got, reports = reports_of(lambda: model.generate(ids, attention_mask=torch.ones_like(ids), **settings))  # type: ignore[operator]
    assert got.shape == want.shape
    assert torch.equal(got[:, :6], ids)
    assert got.max() < 99
    assert 1 <= len(reports) <= 3
    assert all(len(linears(report)) == 8 for report in reports)
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.model
def test_inductor() -> None:
    """The default: the rest of the graph compiled by Inductor."""
    model = llama()
    ids = zoo.ids()
    with torch.no_grad():
        run = torch.compile(model, backend="lowbit", fullgraph=True, options={"plan": "always"})
        got, (report,) = reports_of(lambda: run(input_ids=ids).logits)
        assert cosine(got, model(input_ids=ids).logits) > COSINE
    assert len(linears(report)) == 15
    assert not report.fallback


@pytest.mark.parametrize("recipe", ["int8", "llm-int8", "int8-vector", "int8-weight-only"])
def test_special_rows(recipe: str) -> None:
    """NaN and Inf come out in kind; no other row changes by a bit."""
    model = nn.Linear(96, 48).eval()
    model.weight.data = model.weight.sign() * torch.rand_like(model.weight).add(0.5)  # no sign is lost in rounding
    x = torch.randn(6, 96)
    special = x.clone()
    special[1, 5], special[2, 7], special[4, 0] = torch.nan, torch.inf, -torch.inf
    run = compiled(model, recipe)
    with torch.no_grad():
        clean, got, want = run(x), run(special), model(special)
    ordinary = [0, 3, 5]
    assert torch.equal(got[ordinary], clean[ordinary])
    assert got[1].isnan().all()
    assert torch.equal(got[[2, 4]].sign(), want[[2, 4]].sign())
    assert got[[2, 4]].isinf().all()


def test_ignore() -> None:
    model, x = block()
    for patterns, left in (("up", {"up"}), (["re:^[qk]$", "down.weight"], {"q", "k", "down"})):
        torch._dynamo.reset()
        with torch.no_grad():
            _, (report,) = reports_of(lambda: compiled(model, ignore=patterns)(x))  # noqa: B023  called at once
        assert {site.module for site in report.declined if site.reason == "filtered by the user"} == left
        assert len(linears(report)) == 5 - len(left)


def test_explain_changes_nothing_and_agrees() -> None:
    model, x = block()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        explained = lowbit_compiler.explain(model, x, recipe="llm-int8", plan="always")
        want = model(x)
        _, (report,) = reports_of(lambda: compiled(model, "llm-int8")(x))
    assert explained.sites == report.sites
    assert explained.graphs == 1
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(x), want)


def test_last_report() -> None:
    model, x = block()
    with torch.no_grad():
        compiled(model)(x)
    report = lowbit_compiler.last_report()
    assert len(linears(report)) == 5
    assert "too small" in str(report)
    assert report.saved_bytes > 0
    assert floats(model(x))
