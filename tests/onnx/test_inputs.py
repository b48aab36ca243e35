"""Examples that share memory, that the model writes to, or that are views: the file takes each input by itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lowbit_compiler as lowbit
from helpers import bounds
from helpers.onnx_files import Exported
from lowbit_compiler.errors import WeightFreedError


class Sums(nn.Module):
    """Pairs of inputs; the first of each is written to where asked. Outputs are sums, and inputs and views of these."""

    def __init__(self, writes: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.writes = writes

    def forward(self, pairs: list[tuple[Tensor, Tensor]]) -> dict[str, list[Tensor]]:
        if self.writes:
            for a, _ in pairs:
                a.add_(1)
        of_second = {"part": [b[1:] for _, b in pairs], "b": [b for _, b in pairs], "again": [b for _, b in pairs]}
        return {"sum": [self.linear(a) + b for a, b in pairs], **of_second}


def examples(model: Sums) -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(6, 64)
    return [
        (x[:3], x[:3]),  # one tensor twice
        (x[:3], x[1:4]),  # overlapping views
        (torch.randn(64, 3).t(), x[::2]),  # other strides
        (torch.randn(1, 64).expand(3, 64), x[:3]),  # one row for all
        (model.linear.weight[:3], model.linear.weight[1:4]),  # views of a weight
    ]


@pytest.mark.parametrize("writes", [False, True], ids=["reads", "writes"])
def test_inputs_are_apart(writes: bool, tmp_path: Path) -> None:
    model = Sums(writes).eval()
    given = examples(model)
    flat = [x for pair in given for x in pair]
    before = [x.clone() for x in (*flat, model.linear.weight)]
    exported = Exported(tmp_path, model, (given,), recipe="int8-weight-only", verify=True)
    assert all(torch.equal(x, y) for x, y in zip((*flat, model.linear.weight), before, strict=True))
    other = [torch.randn(3, 64) for _ in flat]
    got = exported.run(*other)
    weight = model.linear.weight.detach()
    step = weight.abs().amax(1) / 127
    for index, (a, b) in enumerate(zip(other[::2], other[1::2], strict=True)):
        x = a + 1 if writes else a
        with torch.no_grad():
            want = model.linear(x) + b
        bound = x.abs().sum(1, keepdim=True) * step / 2 + 67 * bounds.EPS * (x.abs() @ weight.abs().t() + b.abs() + 1)
        assert ((got[index] - want).abs() <= bound).all()  # half a step of each weight, and a sum's roundings
        assert [torch.equal(value, part) for value, part in zip(got[index + 5 :: 5], (b[1:], b, b), strict=True)] == [True] * 3


def test_a_model_without_its_float_weights(tmp_path: Path) -> None:
    """In one sentence, where reading the memory that is gone would end the process."""
    model, x = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval().requires_grad_(False), torch.randn(2, 64)
    path = tmp_path / "model.onnx"
    lowbit.export_onnx(model, x, path)
    with torch.no_grad():
        torch.compile(model, backend="lowbit", options={"plan": "always", "remainder": "eager", "free_weights": True})(x)
    words = r"free_weights=True released float weights of the model, which an export reads; load the model anew"
    calls: list[Any] = [lambda: lowbit.export_onnx(model, x, tmp_path / "second.onnx"), lambda: lowbit.verify_onnx(path, model, x)]
    for call in calls:
        with pytest.raises(WeightFreedError, match=words):
            call()
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]
