"""Real models, at numbers of sentences and tokens that were never traced: bit by bit what torch.compile computes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lowbit_compiler as lowbit
from helpers import minilm
from helpers.compiled import COSINE, compiled, cosine
from helpers.packages import Program
from lowbit_compiler.demo import model as smollm2

pytestmark = pytest.mark.model

CODE = 4_000_000  # bytes of a package beside its weights, at most


class Logits(nn.Module):
    """SmolLM2 without a cache: ids [batch, length] -> logits. Its own forward slices what goes to the head, in Dynamo's graph too."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.inner.lm_head(self.inner.model(input_ids, use_cache=False).last_hidden_state)


class Hidden(nn.Module):
    """MiniLM: ids and mask [batch, length] -> the last layer."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.inner(input_ids, attention_mask).last_hidden_state


def check(model: nn.Module, path: Path, program: Program, make: Any) -> None:
    """Export at one size; compare at others with one graph of torch.compile, and at one row, of which Dynamo makes a graph of its own, with float."""
    inputs = make(2, 16)
    shapes = {name: {0: "batch", 1: "length"} for name in inputs}
    report = lowbit.export_package(model, inputs, path, plan="always", dynamic_shapes=shapes)
    assert not [site for site in report.sites if site.kind == "linear" and site.decision != "rewritten"]
    run = compiled(model, dynamic=True, remainder="inductor")
    for size in [(2, 16), (3, 33), (2, 5)]:
        inputs = make(*size)
        with torch.no_grad(), torch._dynamo.config.patch(specialize_float=True):  # numbers in the package too
            want = run(**inputs)
        (got,) = program.run(path, [*inputs.values()])
        assert torch.equal(got, want), size
    inputs = make(1, 1)
    with torch.no_grad():
        (got,), want = program.run(path, [*inputs.values()]), model(**inputs)
    assert cosine(got, want) > COSINE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_minilm(dtype: torch.dtype, program: Program, tmp_path: Path) -> None:
    """Its weights are there once, packed."""
    model = Hidden(minilm.load()[0].to(dtype)).eval()

    def make(batch: int, length: int) -> dict[str, Tensor]:
        mask = torch.ones(batch, length, dtype=torch.int64)
        mask[0, length // 2 + 1 :] = 0
        return {"input_ids": torch.randint(0, 30000, (batch, length)), "attention_mask": mask}

    check(model, tmp_path / "minilm.pt2", program, make)
    total = sum(parameter.nbytes for parameter in model.parameters())
    weights = [module.weight for module in model.inner.encoder.modules() if isinstance(module, nn.Linear)]
    packed = sum(weight.numel() for weight in weights)
    rest = total - sum(weight.nbytes for weight in weights)
    # a byte an element, and a scale and a sum of 4 bytes for each row of at least 384
    assert (tmp_path / "minilm.pt2").stat().st_size < rest + packed * (1 + 8 / 384) + CODE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_smollm2(dtype: torch.dtype, program: Program, tmp_path: Path) -> None:
    try:
        model = smollm2.load(dtype).model
    except FileNotFoundError as error:
        pytest.skip(str(error))
    model.model.layers = model.model.layers[:2]
    vocabulary = model.config.vocab_size
    check(
        Logits(model).eval(),
        tmp_path / "smollm2.pt2",
        program,
        lambda batch, length: {"input_ids": torch.randint(0, vocabulary, (batch, length))},
    )
