"""Examples with sizes of 1 that may change: the file declares and computes other sizes, in both forms; every recipe in make test-all."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from helpers.onnx_files import Exported
from lowbit_compiler.recipes import WITH_KERNELS


class Mixed(nn.Module):
    """A convolution for images, attention over tokens; several outputs, of sizes that may change, that are computed, and that stay."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.images = nn.Embedding(50, 64), nn.Conv2d(3, 8, 3, 2)
        self.seen, self.q, self.k, self.v = nn.Linear(8 * 3 * 3, 64), *(nn.Linear(64, 64) for _ in range(3))
        self.out = nn.Linear(64, 32)

    def forward(self, image: Tensor, ids: Tensor) -> dict[str, Tensor]:
        x = self.table(ids) + self.seen(self.images(image).relu().flatten(1)).unsqueeze(1)
        q, k, v = (each(x).unflatten(-1, (4, 16)).transpose(1, 2) for each in (self.q, self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        logits = self.out(torch.cat([y, x], 1))
        return {"logits": logits, "pooled": y.mean(1), "weight": self.out.weight.sum(1), "flat": y.reshape(-1, 64)}


SHAPES = {"image": {0: "batch"}, "ids": {0: "batch", 1: "length"}}
WAYS = [("int8", "integer"), ("llm-int8", "integer"), ("int4-weight-only", "integer"), ("int8", "qdq"), ("int8-weight-only", "qdq")]
OTHERS = [(recipe, "integer") for recipe in WITH_KERNELS if (recipe, "integer") not in WAYS]


def inputs(batch: int, length: int) -> dict[str, Tensor]:
    return {"image": torch.randn(batch, 3, 8, 8), "ids": torch.randint(0, 50, (batch, length))}


def declared(exported: Exported) -> dict[str, list[Any]]:
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*exported.proto.graph.input, *exported.proto.graph.output)
    }


@pytest.mark.parametrize(
    ("recipe", "form"), [*WAYS, *(pytest.param(*way, marks=pytest.mark.model) for way in OTHERS)], ids=map("-".join, WAYS + OTHERS)
)
def test_one_sequence_of_one_token(recipe: str, form: str, tmp_path: Path) -> None:
    exported = Exported(tmp_path, Mixed().eval(), inputs(1, 1), recipe=recipe, form=form, dynamic_shapes=SHAPES)
    shapes = declared(exported)
    assert shapes["image"] == ["batch", 3, 8, 8]
    assert shapes["ids"] == ["batch", "length"]
    assert (shapes["pooled"], shapes["weight"]) == (["batch", 64], [32])
    assert (shapes["logits"][::2], shapes["flat"][1]) == (["batch", 32], 64)
    assert [type(size) for size in (shapes["logits"][1], shapes["flat"][0])] == [str, str]
    for batch, length in ((1, 1), (3, 5)):
        result = exported.agreement(inputs(batch, length))
        assert result.agrees, str(result)
        got = exported.run(*inputs(batch, length).values())
        assert [value.shape for value in got] == [(batch, 2 * length, 32), (batch, 64), (32,), (batch * length, 64)]


class Causal(nn.Module):
    """What is traced otherwise for one token, because Python asks whether there are more."""

    def __init__(self, most: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.most = most

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x).unsqueeze(1)
        if self.most and x.shape[1] < 4:
            return y.squeeze(1)
        return nn.functional.scaled_dot_product_attention(y, y, y, is_causal=bool(x.shape[1] > 1)).squeeze(1)


CAUSAL = {"x": {0: "batch", 1: "length"}}


def test_what_one_is_not_traced_for_is_traced_for_two(tmp_path: Path) -> None:
    exported = Exported(tmp_path, Causal(False).eval(), torch.randn(1, 1, 64), dynamic_shapes=CAUSAL, verify=True)
    assert declared(exported)["output"] == ["batch", "length", 64]
    assert any(note.startswith("dimension 1 of 'x' was traced for sizes from 2 on: ") for note in exported.report.notes)
    for shape in ((1, 1, 64), (2, 7, 64)):
        assert exported.agreement(torch.randn(shape)).agrees


@pytest.mark.parametrize("length", ["length", torch.export.Dim.DYNAMIC], ids=["name", "DYNAMIC"])
@pytest.mark.parametrize(("size", "sizes"), [(1, "0 to 3"), (2, "0 to 3"), (5, "4 on")])
def test_a_size_that_the_code_asks_about_is_said(length: Any, size: int, sizes: str, tmp_path: Path) -> None:
    """It holds for the example's branch alone."""
    exported = Exported(tmp_path, Causal(True).eval(), torch.randn(1, size, 64), dynamic_shapes={"x": {1: length}})
    assert any(note.startswith(f"dimension 1 of 'x' was traced for sizes from {sizes}: ") for note in exported.report.notes)


def test_sizes_that_stay_are_declared_as_numbers(tmp_path: Path) -> None:
    exported = Exported(tmp_path, Mixed().eval(), inputs(1, 1), verify=True)
    assert declared(exported)["logits"] == [1, 2, 32]
    assert exported.proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
