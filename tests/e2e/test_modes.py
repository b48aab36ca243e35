"""``mode="reduce-overhead"`` on a CPU: the same values through generated C++, with every kind of argument that ops take."""

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import lowbit_compiler as lowbit
from lowbit_compiler.compile.remainder import patches


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(96)
        self.gate, self.up, self.down = nn.Linear(96, 128), nn.Linear(96, 128), nn.Linear(128, 96)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        cos = angles.cos()
        h = self.norm(x)
        return (x * cos + self.down(F.silu(self.gate(h)) * self.up(h))) * cos


def test_values_and_changed_weights() -> None:
    torch.manual_seed(0)
    model = Block().eval()
    compiled = torch.compile(model, backend="lowbit", mode="reduce-overhead", dynamic=True)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOWBIT_VERIFY", "each")
        for rows in (7, 12):
            x, angles = torch.randn(rows, 96), torch.randn(rows, 96)
            want = model(x, angles)
            assert (compiled(x, angles) - want).norm() <= 0.03 * want.norm()
        model.down.weight.mul_(2)
        want = model(x, angles)
        assert (compiled(x, angles) - want).norm() <= 0.03 * want.norm()
    report = lowbit.last_report()
    assert report is not None
    assert report.fallback == ""


@pytest.mark.parametrize(
    ("mode", "device", "cpp"), [("reduce-overhead", "cpu", True), ("reduce-overhead", "meta", None), ("default", "cpu", None)]
)
def test_only_on_a_cpu(mode: str, device: str, cpp: bool | None) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(2, device=device)
    graph.output(x)
    found = patches(mode, fx.GraphModule({}, graph))
    assert found is not None
    assert found.get("cpp_wrapper") is cpp
