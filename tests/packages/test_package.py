"""A small model in a package computes what it computes under torch.compile, bit by bit, in Python and without; float weights stay out of it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

import lowbit_compiler as lowbit
from helpers import forks
from helpers.compiled import compiled
from helpers.packages import Program, needs
from lowbit_compiler.exits.package import ABI
from lowbit_compiler.report import Report
from lowbit_compiler.runtime import library

WIDTH = 512
SHAPES = [(2, 8), (1, 1), (3, 5)]
"""Batch and length; only the first is traced."""


class Block(nn.Module):
    """Every kind of op: products with an activation or a normalization in front, attention over grouped heads, softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH, bias=False)
        self.q, self.k = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH // 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.down(gelu(self.up(self.norm(x)))) + x
        q, k = (linear(x).unflatten(-1, (-1, 64)).transpose(1, 2) for linear in (self.q, self.k))
        y = scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True)
        return {"y": y.transpose(1, 2).flatten(2), "p": torch.softmax(x.float() * 0.3, -1)}


@dataclass
class Packaged:
    """A model with its package."""

    model: nn.Module
    path: Path
    report: Report

    def inputs(self) -> Iterator[Tensor]:
        torch.manual_seed(1)
        return (torch.randn(*shape, WIDTH, dtype=self.model.norm.weight.dtype) for shape in SHAPES)


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    if missing := needs():
        pytest.skip(missing)
    torch.manual_seed(0)
    model, path = Block().to(torch.bfloat16).eval(), tmp_path_factory.mktemp("package") / "block.pt2"
    nn.init.normal_(model.norm.weight)
    x = torch.randn(*SHAPES[0], WIDTH, dtype=torch.bfloat16)
    report = lowbit.export_package(model, {"x": x}, path, plan="always", dynamic_shapes={"x": {0: "batch", 1: "length"}})
    return Packaged(model, path, report)


def test_outputs_are_those_of_torch_compile(packaged: Packaged, program: Program) -> None:
    """The same ops on the same packed weights, and Inductor's loops for the rest: there is nothing that may differ."""
    assert [site.decision for site in packaged.report.sites] == ["rewritten"] * 6
    in_python = torch._inductor.aoti_load_package(str(packaged.path))
    by_compile = compiled(packaged.model, dynamic=True, remainder="inductor")
    for x in packaged.inputs():
        with torch.no_grad():
            want = by_compile(x)
        got = in_python(x=x)
        for mine, other, name in zip(program.run(packaged.path, [x]), got.values(), want, strict=True):
            assert torch.equal(got[name], want[name])
            assert torch.equal(mine, other)


LOAD = """
import sys, torch
import lowbit_compiler.runtime
x, y = torch.load(sys.argv[2])
assert torch.equal(torch._inductor.aoti_load_package(sys.argv[1])(x=x)["y"], y)
"""


def test_another_process_needs_the_ops_alone(packaged: Packaged, program: Program, tmp_path: Path) -> None:
    x = next(packaged.inputs())
    torch.save([x, program.run(packaged.path, [x])[0]], tmp_path / "tensors.pt")
    done = forks.run(LOAD, str(packaged.path), str(tmp_path / "tensors.pt"))
    assert done.returncode == 0, done.stderr


def test_weights_are_there_packed_alone(packaged: Packaged) -> None:
    stored = packaged.path.read_bytes()

    def inside(tensor: Tensor) -> bool:
        return tensor.detach().flatten()[:64].view(torch.uint8).numpy().tobytes() in stored

    linears = [module for module in packaged.model.modules() if isinstance(module, nn.Linear)]
    assert not any(inside(linear.weight) for linear in linears)
    assert inside(packaged.model.norm.weight)
    assert {path.name for path in packaged.path.parent.iterdir()} == {"block.pt2"}


def test_there_is_no_python_in_the_program(packaged: Packaged, program: Program, tmp_path: Path) -> None:
    torch.save([*packaged.inputs()][:1], tmp_path / "inputs.pt")
    ops: Any = library.ops_path()
    done = program.start(ops, packaged.path, tmp_path / "inputs.pt", tmp_path / "outputs.pt", LD_DEBUG="files")
    assert done.returncode == 0
    assert "file=liblowbit_cpu.so" in done.stderr
    assert not any(f"file={name}" in done.stderr for name in ("libpython", "libtorch_python"))


def test_a_package_for_another_library_is_refused(packaged: Packaged, program: Program, tmp_path: Path) -> None:
    """Their packed weights may be laid out in another way."""
    ops: Any = library.ops_path()
    other = re.sub(rb"\d", b"0", library.ABI)  # as long: all else stays where it is
    for name in (ops.name, library.FILE):
        (tmp_path / name).write_bytes(ops.with_name(name).read_bytes().replace(library.ABI, other))
    done = program.start(tmp_path / ops.name, packaged.path, tmp_path, tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        f"{tmp_path / ops.name} is {other[:-1].decode()}, the package is for {library.ABI[:-1].decode()}\n",
    )
    assert torch._inductor.aoti_load_package(str(packaged.path)).get_metadata()[ABI] == library.ABI[:-1].decode()
