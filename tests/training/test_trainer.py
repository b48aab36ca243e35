"""transformers' Trainer trains a model that was compiled in place, evaluates it in between, and saves it under its own names."""

from pathlib import Path
from typing import Any

import pytest
import torch

import lowbit_compiler as lowbit
from helpers.compiled import reports_of
from helpers.training import WORDS, text

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")


def trained(folder: Path, **options: Any) -> Any:
    """Return the trainer of a small Llama after four steps; compiled where there are options."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    transformers.set_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, use_cache=False, tie_word_embeddings=True, **shape))
    if options:
        model.compile(backend="lowbit", options={"remainder": "eager", "plan": "always", **options})
    data = [{"input_ids": row, "labels": row} for row in text(8)]
    arguments = TrainingArguments(
        str(folder), max_steps=4, per_device_train_batch_size=4, per_device_eval_batch_size=4, learning_rate=3e-2, warmup_steps=0,
        logging_steps=1, eval_strategy="steps", eval_steps=2, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data)
    trainer.train()
    return trainer


def losses(trainer: Any, key: str) -> torch.Tensor:
    return torch.tensor([row[key] for row in trainer.state.log_history if key in row])


def test_trainer(tmp_path: Path) -> None:
    got, reports = reports_of(lambda: trained(tmp_path, recipe="int8-training"))
    want = trained(tmp_path)
    assert [report.recipe for report in reports] == ["int8-training", "int8"]  # of steps, and of evaluation
    assert {site.op for site in reports[0].rewritten} == {"linear forward", "linear dX", "linear dW"}
    assert len({site.module for site in reports[0].rewritten}) == 7
    for key, count in {"loss": 4, "eval_loss": 2}.items():
        assert len(losses(got, key)) == count
        torch.testing.assert_close(losses(got, key), losses(want, key), rtol=0.05, atol=0)
    assert losses(got, "loss")[-1] < 0.9 * losses(got, "loss")[0]
    got.save_model(str(tmp_path))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(parameter, got.model.get_parameter(name)) for name, parameter in again.named_parameters())
    assert not lowbit.last_report().fallback
