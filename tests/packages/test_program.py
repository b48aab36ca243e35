"""What is compiled ahead of time: nothing of the memory around a stored tensor, and what torch.compile fuses is fused."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import lowbit_compiler as lowbit
from helpers.graphs import TwoLinears

X = torch.randn(2, 96)


def test_stored_tensors_are_alone_in_their_memory(tmp_path: Path, packaged: list[ExportedProgram]) -> None:
    """AOTInductor writes all the memory of a view; weights of a file that is read as one are such."""
    model, memory = TwoLinears().eval(), torch.randn(100_000)
    model.q.weight = nn.Parameter(memory[: 64 * 96].view(64, 96))
    model.register_buffer("table", memory[:32])
    model.forward = lambda x: model.q(x)[:, :32] + model.table
    lowbit.export_package(model, X, tmp_path / "model.pt2", ignore="q", plan="always")
    (program,) = packaged
    stored = {**program.state_dict, **program.constants}
    assert sorted(stored) == ["q.bias", "q.weight", "table"]
    assert torch.equal(stored["q.weight"], model.q.weight)
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in stored.values())


class Residual(nn.Module):
    """A normalization as language models write it, and a residual beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.linear = nn.Parameter(torch.randn(96)), nn.Linear(96, 96)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 2
        residual = x = x.to(torch.float32)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
        return residual + self.linear(self.gain * x.to(torch.float32))


def test_casts_that_do_nothing_hide_no_fusion(tmp_path: Path, packaged: list[ExportedProgram]) -> None:
    """In the trace the residual reads what the cast returns, which is its own input."""
    report = lowbit.export_package(Residual().eval(), X, tmp_path / "model.pt2", plan="always")
    assert [site.prologue for site in report.sites] == ["rms_norm, times"]


class Repeated(nn.Module):
    """Attention over key heads that are written once for each of their query heads, as language models do it."""

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        batch, heads, length, width = k.shape
        k = k[:, :, None, :, :].expand(batch, heads, q.shape[1] // heads, length, width).reshape(batch, -1, length, width)
        return nn.functional.scaled_dot_product_attention(q, k, k)


def test_repeated_heads_are_not_written(tmp_path: Path, packaged: list[ExportedProgram]) -> None:
    inputs = torch.randn(1, 4, 5, 16), torch.randn(1, 2, 5, 16)
    lowbit.export_package(Repeated().eval(), inputs, tmp_path / "model.pt2", plan="always", dynamic_shapes=({2: "queries"}, {2: "keys"}))
    (program,) = packaged
    (call,) = program.graph.find_nodes(op="call_function", target=torch.ops.lowbit.sdpa.default)
    assert [operand.name for operand in call.args[:3]] == ["q", "k", "k"]
