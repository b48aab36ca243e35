"""What a user may rely on: shapes, changed weights, gradients, special values, errors, switches."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lowbit_compiler
from helpers import forks, zoo
from helpers.compiled import NATIVE, compiled, cosine, linears, reports_of
from lowbit_compiler.debug.replay import floats
from lowbit_compiler.errors import OptionError
from lowbit_compiler.options import ENVIRONMENT
from lowbit_compiler.passes.graph import emit
from lowbit_compiler.passes.merge import MergeSiblings
from lowbit_compiler.passes.pipeline import PASS_NAMES
from lowbit_compiler.passes.treat import Treat

COSINE = 0.99  # the project's own bound for randomly initialised models


class Block(nn.Module):
    """An attention block: three products of one input, an attention, a tied pair, and a head too small to rewrite."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
        return self.head(x + self.down(torch.relu(self.up(x))))


def block(dtype: torch.dtype = torch.float32) -> tuple[Block, Tensor]:
    return Block().eval().to(dtype), torch.randn(2, 7, 64, dtype=dtype)


def llama(**changes: Any) -> nn.Module:
    return zoo.causal("Llama", **changes)()[0]


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ENVIRONMENT:
        if name not in ("LOWBIT_NATIVE", "LOWBIT_ISA", "LOWBIT_LIBRARY"):  # these choose what the whole suite runs on
            monkeypatch.delenv(name, raising=False)
    return monkeypatch


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


def test_nan_does_not_pass_verification(plain_environment: pytest.MonkeyPatch) -> None:
    def poisoned(self: MergeSiblings, gm: Any, ctx: Any) -> int:
        (output,) = (node for node in gm.graph.nodes if node.op == "output")
        result: Any = output.args[0][0]
        with gm.graph.inserting_before(output):
            output.args = ((emit(gm, torch.ops.aten.mul.Tensor, result, float("nan"), like=result),),)
        return 1

    plain_environment.setenv("LOWBIT_VERIFY", "each")
    plain_environment.setattr(MergeSiblings, "run", poisoned)
    model, x = block()
    with torch.no_grad(), pytest.raises(Exception, match=r"pass merge: output 0 has nan dB"):
        compiled(model)(x)


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


def load(model: nn.Module) -> None:
    model.load_state_dict({name: -value for name, value in model.state_dict().items()})


def copy(model: nn.Module) -> None:
    with torch.no_grad():
        model.up.weight.copy_(torch.randn_like(model.up.weight))  # type: ignore[operator, union-attr, arg-type]


def data(model: nn.Module) -> None:
    model.up.weight.data = torch.randn(128, 64)  # type: ignore[union-attr]


def replace(model: nn.Module) -> None:
    model.up.weight = nn.Parameter(torch.randn(128, 64))  # type: ignore[union-attr]


def bias(model: nn.Module) -> None:
    with torch.no_grad():
        model.q.bias.add_(3)  # type: ignore[operator, union-attr]


def step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    with torch.no_grad():
        optimizer.step()


@pytest.mark.parametrize("change", [load, copy, data, replace, bias, step])
def test_changed_weight(change: Callable[[nn.Module], None]) -> None:
    model, x = block()
    run = compiled(model)
    with torch.no_grad():
        before = run(x)
        assert torch.equal(run(x), before)
        change(model)
        got, want = run(x), model(x)
    assert not torch.equal(got, before)
    assert cosine(got, want) > COSINE
    with torch.no_grad():
        fresh = compiled(model)(x)
    assert torch.equal(got, fresh)


def test_two_instances_share_code() -> None:
    """Instances of one class may share the compiled code, not the weights."""
    (first, x), (second, _) = block(), block()
    runs = [compiled(first), compiled(second)]
    with torch.no_grad():
        for _ in range(2):
            for model, run in zip((first, second), runs, strict=True):
                assert cosine(run(x), model(x)) > COSINE
        assert not torch.equal(runs[0](x), runs[1](x))


def test_tied_weights() -> None:
    model = llama(tie_word_embeddings=True)
    ids = zoo.ids()
    with torch.no_grad():
        got, (report,) = reports_of(lambda: compiled(model)(input_ids=ids))
        assert cosine(got.logits, model(input_ids=ids).logits) > COSINE
        assert "lm_head" in {site.module for site in report.rewritten}
        torch._dynamo.reset()
        _, (report,) = reports_of(lambda: compiled(model, "llm-int8")(input_ids=ids))
    assert [(site.module, site.reason) for site in report.declined if site.kind == "linear"] == [
        ("lm_head", "output head kept by the recipe")
    ]


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


BAD_OPTIONS = [
    ({"recepie": "int8"}, r"unknown option 'recepie' \(did you mean 'recipe'\?\); accepted: recipe, "),
    ({"recipe": "int3"}, r"unknown recipe 'int3'; accepted: int8, llm-int8, "),
    ({"recipe": 8}, r"recipe takes the name of a recipe or a Recipe, got 8"),
    (
        {"recipe": "int8", "llm_int8_threshold": 5.0},
        r"'llm_int8_threshold' needs a recipe with treatment 'columns' \(llm-int8\), got 'int8'",
    ),
    ({"recipe": "llm-int8", "llm_int8_threshold": "six"}, r"'llm_int8_threshold' takes a finite number above 0, got 'six'"),
    ({"recipe": "llm-int8", "llm_int8_threshold": -1.0}, r"'llm_int8_threshold' takes a finite number above 0, got -1.0"),
    ({"recipe": "int8", "group_size": 64}, r"'group_size' needs an int4 recipe \(int4-weight-only\), got 'int8'"),
    ({"recipe": "int4-weight-only", "group_size": 48}, r"'group_size' takes one of \(32, 64, 128\), got 48"),
    ({"recipe": "int4-weight-only", "group_size": 64.0}, r"'group_size' takes one of \(32, 64, 128\), got 64.0"),
    ({"ignore": 3}, r"'ignore' takes a string or a list of strings, got 3"),
    ({"ignore": ["re:("]}, r"'re:\(' is not a valid regular expression"),
    ({"ignore": "upp"}, r"ignore 'upp' matches no module or parameter of the model \(\d+ names\); close: up"),
    ({"modules_to_not_convert": ["up", "nothing.like"]}, r"ignore 'nothing.like' matches no module or parameter"),
    ({"weights": "frosty"}, r"'weights' takes 'checked' or 'frozen', got 'frosty'"),
    ({"free_weights": "yes"}, r"'free_weights' takes True or False, got 'yes'"),
    ({"remainder": "tvm"}, r"'remainder' takes 'inductor' or 'eager', got 'tvm'"),
    ({"plan": "never"}, r"'plan' takes 'measured' or 'always', got 'never'"),
    ({"dump": "/proc/nowhere"}, r"option 'dump': cannot write to '/proc/nowhere'"),
    ({"dump": __file__}, r"option 'dump': cannot write to"),
    ({"dump": 1}, r"option 'dump' takes a folder, got 1"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS, ids=[str(options) for options, _ in BAD_OPTIONS])
def test_bad_option(plain_environment: pytest.MonkeyPatch, options: dict[str, Any], message: str) -> None:
    model, x = block()

    def run() -> None:
        with torch.no_grad(), pytest.raises(Exception, match=message) as raised:
            compiled(model, **options)(x)
        assert "OptionError" in str(raised.value) or raised.type.__name__ == "OptionError"

    _, reports = reports_of(run)
    assert not reports
    with pytest.raises(OptionError, match=message):
        lowbit_compiler.explain(model.requires_grad_(False), x, **options)


def test_bad_mode() -> None:
    model, x = block()
    with torch.no_grad(), pytest.raises(Exception, match=r"OptionError: mode takes one of default, .*, got 'fast'"):
        torch.compile(model, backend="lowbit", mode="fast")(x)


BAD_ENVIRONMENT = [
    ("LOWBIT_DISABEL", "merge", r"unknown environment variable LOWBIT_DISABEL; accepted: LOWBIT_DUMP, "),
    ("LOWBIT_DISABLE", "merge,murge", r"LOWBIT_DISABLE: unknown pass 'murge'; accepted: normalize, "),
    ("LOWBIT_STOP_AFTER", "later", r"LOWBIT_STOP_AFTER: unknown pass 'later'; accepted: normalize, "),
    ("LOWBIT_STOP_AFTER", ",", r"LOWBIT_STOP_AFTER: unknown pass ','; accepted: normalize, "),
    ("LOWBIT_MAX_REWRITES", "-3", r"LOWBIT_MAX_REWRITES takes a number >= 0, got '-3'"),
    ("LOWBIT_VERIFY", "yes", r"LOWBIT_VERIFY takes 'each', got 'yes'"),
    ("LOWBIT_DUMP", "/proc/nowhere", r"LOWBIT_DUMP: cannot write to '/proc/nowhere'"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD_ENVIRONMENT, ids=[f"{name}={value}" for name, value, _ in BAD_ENVIRONMENT])
def test_bad_environment(plain_environment: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    plain_environment.setenv(name, value)
    model, x = block()
    with torch.no_grad(), pytest.raises(Exception, match=message):
        compiled(model)(x)


def test_free_weights(caplog: pytest.LogCaptureFixture) -> None:
    """Storage goes, the tied embedding stays, a new shape works, and what no longer works says so."""
    model = llama(tie_word_embeddings=True)
    ids = zoo.ids()
    weights = {name: value for name, value in model.named_parameters() if value.dim() == 2}
    size = sum(value.nbytes for name, value in weights.items() if "embed" not in name)
    with torch.no_grad():
        want, longer = model(input_ids=ids).logits, model(input_ids=zoo.ids(tokens=17).fill_(5)).logits
        run = compiled(model, free_weights=True)
        with caplog.at_level(logging.WARNING, "lowbit_compiler"):
            got, (report,) = reports_of(lambda: run(input_ids=ids).logits)
        assert cosine(got, want) > COSINE
        for name, value in weights.items():
            assert (value.untyped_storage().nbytes() == 0) == ("embed" not in name), name
        assert f"free_weights released {size / 1e6:.1f} MB" in report.notes[0]
        assert any("free_weights released" in record.getMessage() for record in caplog.records)
        assert cosine(run(input_ids=zoo.ids(tokens=17).fill_(5)).logits, longer) > COSINE  # recompiled
        torch._dynamo.reset()
        assert cosine(compiled(model)(input_ids=ids).logits, want) > COSINE  # the same recipe: packed weights are shared
        torch._dynamo.reset()
        with pytest.raises(Exception, match=r"WeightFreedError: .*released by free_weights=True"):
            compiled(model, "llm-int8")(input_ids=ids)


def test_free_weights_of_borrowed_memory() -> None:
    """Memory of a NumPy array is not torch's to release; the graph is compiled all the same."""
    model, x = block()
    model.up.weight = nn.Parameter(torch.from_numpy(model.up.weight.detach().numpy().copy()))  # type: ignore[union-attr, operator]
    with torch.no_grad():
        want = model(x)
        got, (report,) = reports_of(lambda: compiled(model, free_weights=True)(x))
    assert not report.fallback
    assert cosine(got, want) > COSINE
    assert model.up.weight.untyped_storage().nbytes() > 0  # type: ignore[union-attr, operator]
    assert model.q.weight.untyped_storage().nbytes() == 0  # type: ignore[union-attr, operator]


def broken(self: Treat, gm: Any, ctx: Any) -> int:
    raise ZeroDivisionError("broken on purpose")


def test_failing_pass_falls_back(plain_environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    plain_environment.setattr(Treat, "run", broken)
    model, x = block()
    with torch.no_grad(), caplog.at_level(logging.WARNING, "lowbit_compiler"):
        got, (report,) = reports_of(lambda: compiled(model)(x))
        assert torch.equal(got, model(x))
    assert "pass treat: ZeroDivisionError: broken on purpose" in report.fallback
    assert "broken on purpose" in str(report)
    assert len(report.declined) == len(report.sites) == 7
    assert any("broken on purpose" in record.getMessage() for record in caplog.records)


def test_failing_pass_raises_under_verify(plain_environment: pytest.MonkeyPatch) -> None:
    plain_environment.setattr(Treat, "run", broken)
    plain_environment.setenv("LOWBIT_VERIFY", "each")
    model, x = block()
    with torch.no_grad(), pytest.raises(Exception, match="pass treat: ZeroDivisionError: broken on purpose"):
        compiled(model)(x)


@pytest.mark.parametrize("recipe", ["int8", "llm-int8", "int4-weight-only"])
def test_verify_passes(plain_environment: pytest.MonkeyPatch, recipe: str) -> None:
    plain_environment.setenv("LOWBIT_VERIFY", "each")
    model, x = block(torch.bfloat16)
    with torch.no_grad():
        got, (report,) = reports_of(lambda: compiled(model, recipe)(x))
        assert cosine(got, model(x)) > COSINE
    assert len(linears(report)) == 5


@pytest.mark.parametrize(
    ("switch", "recipe"),
    [("LOWBIT_STOP_AFTER", "int8"), ("LOWBIT_STOP_AFTER", "llm-int8"), ("LOWBIT_DISABLE", "int8"), ("LOWBIT_DISABLE", "int4-weight-only")],
)
def test_every_prefix_and_gap(plain_environment: pytest.MonkeyPatch, switch: str, recipe: str) -> None:
    """Whatever is left out, the graph runs and agrees."""
    model, x = block(torch.bfloat16)
    for name in PASS_NAMES:
        plain_environment.setenv(switch, name)
        torch._dynamo.reset()
        with torch.no_grad():
            got, (report,) = reports_of(lambda: compiled(model, recipe)(x))
            assert cosine(got, model(x)) > COSINE, name
        assert not report.fallback, name
        ran = [run.name for run in report.passes]
        assert ran == list(PASS_NAMES[: PASS_NAMES.index(name) + 1] if switch == "LOWBIT_STOP_AFTER" else PASS_NAMES)
        if switch == "LOWBIT_DISABLE":
            assert next(run.skipped for run in report.passes if run.name == name) == "disabled"


@pytest.mark.parametrize("limit", [0, 1, 2, 4, 99])
def test_max_rewrites(plain_environment: pytest.MonkeyPatch, limit: int) -> None:
    plain_environment.setenv("LOWBIT_MAX_REWRITES", str(limit))
    model, x = block()
    with torch.no_grad():
        got, (report,) = reports_of(lambda: compiled(model)(x))
        assert cosine(got, model(x)) > COSINE
    sites = 5 + NATIVE  # and the attention
    assert len(report.rewritten) == min(limit, sites)
    assert sum(site.reason == "LOWBIT_MAX_REWRITES reached" for site in report.declined) == max(sites - limit, 0)


@pytest.mark.parametrize("how", ["option", "environment"])
def test_dump(plain_environment: pytest.MonkeyPatch, tmp_path: Path, how: str) -> None:
    folder = tmp_path / "new" / "dump"
    if how == "environment":
        plain_environment.setenv("LOWBIT_DUMP", str(folder))
    model, x = block()
    with torch.no_grad():
        run = compiled(model, **({"dump": str(folder)} if how == "option" else {}))
        _, reports = reports_of(lambda: (run(x), run(torch.randn(2, 9, 64))))
    assert sorted(path.name for path in folder.iterdir()) == ["graph_0", "graph_1"]
    names = [f"{number:02d}_{name}.txt" for number, name in enumerate(["capture", *PASS_NAMES])]
    for graph, report in zip(("graph_0", "graph_1"), reports, strict=True):
        files = {path.name for path in (folder / graph).iterdir() if path.suffix != ".diff"}
        assert files == {*names, "graph.json", "index.md", "report.txt", "view.html"}
        index = (folder / graph / "index.md").read_text()
        assert all(name in index for name in names)
        assert (folder / graph / "report.txt").read_text() == str(report)
        assert "aten.linear" in (folder / graph / names[0]).read_text()
        assert "lowbit.linear_s8s8_rotated" in (folder / graph / names[-1]).read_text()


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
