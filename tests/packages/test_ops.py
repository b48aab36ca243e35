"""Every op that has a kernel runs in a program without Python, with every kind of argument, and returns what it returns here."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lowbit_compiler as lowbit
from helpers.packages import Program
from helpers.samples import samples
from lowbit_compiler.torch_internals import dispatch, trees

L = torch.ops.lowbit
BEFORE: list[dict[str, Any]] = [
    {},
    {"prologue": "gelu"},
    {"prologue": "layer_norm", "times": torch.randn(100), "plus": torch.randn(100), "eps": 1e-5},
]


def calls() -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """Return ops with their arguments: those of the samples, and of one product all that may stand in front of it."""
    given = samples()
    native = [name for name in given if dispatch.has_kernel(getattr(L, name).default, "cpu")]
    assert {"linear_fs4", "softmax", "sdpa", "quantize_s8"} < set(native)
    return [(getattr(L, name).default, given[name], kwargs) for name in native for kwargs in (BEFORE if name == "linear_s8s8" else [{}])]


class Calls(nn.Module):
    """All calls, in one graph; tensors come as inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = calls()
        leaves, self.spec = trees.tree_flatten([(args, kwargs) for _, args, kwargs in self.calls])
        self.others = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.inputs = [leaf.clone() for leaf in leaves if isinstance(leaf, Tensor)]
        self.where = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        leaves = list(self.others)
        for index, tensor in zip(self.where, inputs, strict=True):
            leaves[index] = tensor
        results = [
            op(*args, **kwargs) for (op, *_), (args, kwargs) in zip(self.calls, trees.tree_unflatten(leaves, self.spec), strict=True)
        ]
        return tuple(trees.tree_leaves(results))


@pytest.mark.model
def test_ops(program: Program, tmp_path: Path) -> None:
    model, path = Calls().eval(), tmp_path / "ops.pt2"
    lowbit.export_package(model, model.inputs, path)
    got, want = program.run(path, model.inputs), model(*model.inputs)
    for mine, other in zip(got, want, strict=True):
        assert mine.dtype is other.dtype
        assert torch.equal(mine, other)
