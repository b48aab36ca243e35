"""lowbit.switch_bits: one packed weight in 4, 6 and 8 bits, at run time."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lowbit_compiler as lowbit
from helpers.compiled import compiled
from lowbit_compiler.errors import OptionError
from lowbit_compiler.runtime.formats.d8 import narrowed
from lowbit_compiler.runtime.weights import STORE

L = torch.ops.lowbit
K = 96


class Gated(nn.Module):
    """Siblings that become one product, and a product that reads them; nothing between them is rounded otherwise than torch does."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(K, 130), nn.Linear(K, 130), nn.Linear(130, K, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.gate(x)) * self.up(x))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Gated().eval()


@pytest.fixture(autouse=True)
def inference() -> Any:
    with torch.no_grad():
        yield


def expected(model: Any, x: Tensor, bits: int) -> Tensor:
    """Return what docs/arithmetic.md says: exact sums of codes rounded to ``bits``."""

    def linear(x: Tensor, layer: nn.Linear) -> Tensor:
        (q, scale), (qx, sx) = L.quantize_s8(layer.weight), L.quantize_s8(x)
        y = (qx.double() @ narrowed(q, bits).double().t()).float() * sx * scale.t()
        return y if layer.bias is None else y + layer.bias

    return x + linear(torch.relu(linear(x, model.gate)) * linear(x, model.up), model.down)


def test_switching(model: Gated) -> None:
    """Values of each width, without compiling or packing anything; another model of the process stays as it is."""
    other = copy.deepcopy(model)
    run, beside, vector = compiled(model, "int8-switchable"), compiled(other, "int8-switchable"), compiled(model, "int8-vector")
    x = torch.randn(7, K)
    eight = run(x)
    assert torch.equal(beside(x), eight)
    assert torch.equal(eight, vector(x))
    stored = STORE.nbytes()
    with torch.compiler.set_stance("fail_on_recompile"):
        for bits in (4, 6, 8, 4):
            assert lowbit.switch_bits(run, bits) == 3
            got = run(x)
            assert torch.equal(got, expected(model, x, bits))
            assert torch.equal(got, eight) == (bits == 8)
            assert torch.equal(beside(x), eight)
    assert STORE.nbytes() == stored


def test_what_is_packed_later(model: Gated) -> None:
    """A written weight and a graph of another shape keep the width, and so do copies and pickles that are compiled anew."""
    run, x, y = compiled(model, "int8-switchable", dynamic=False), torch.randn(7, K), torch.randn(3, K)
    run(x)
    lowbit.switch_bits(run, 4)
    four, three = run(x), run(y)
    assert not torch.equal(three, compiled(copy_of_float(model), "int8-switchable")(y))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        again = compiled(twin, "int8-switchable")
        assert torch.equal(again(x), four)
        report = lowbit.last_report()
        assert report is not None
        assert "2 weights are read in 4 bits (lowbit.switch_bits)" in report.notes
    model.down.weight.mul_(2.0)
    halved = copy_of_float(model)
    want = compiled(halved, "int8-switchable")
    want(x)
    lowbit.switch_bits(want, 4)
    assert torch.equal(run(x), want(x))
    lowbit.switch_bits(run, 8)
    assert not torch.equal(run(x), want(x))


def copy_of_float(model: Gated) -> Gated:
    """Return a model of the same weights that knows of no width."""
    twin = Gated().eval()
    twin.load_state_dict(model.state_dict())
    return twin


def test_with_inductor(model: Gated) -> None:
    run = torch.compile(model, backend="lowbit", options={"recipe": "int8-switchable", "plan": "always", "weights": "frozen"})
    x = torch.randn(7, K)
    run(x)
    for bits in (4, 8):
        lowbit.switch_bits(run, bits)
        assert torch.equal(run(x), expected(model, x, bits))


@pytest.mark.parametrize("module", ["layer", "model"])
def test_layers_compiled_one_by_one(module: str) -> None:
    """The width of one layer, or of the model that holds them."""
    stack = nn.Sequential(Gated(), Gated()).eval()
    for layer in stack:
        layer.compile(backend="lowbit", options={"recipe": "int8-switchable", "plan": "always", "remainder": "eager"})
    x = torch.randn(5, K)
    before = stack[0](x), stack[1](x)
    assert lowbit.switch_bits(stack[1] if module == "layer" else stack, 4) == (3 if module == "layer" else 6)
    assert torch.equal(stack[0](x), before[0]) == (module == "layer")
    assert not torch.equal(stack[1](x), before[1])


def test_errors(model: Gated) -> None:
    for bits in (5, 4.5, True, "4"):
        with pytest.raises(OptionError, match=r"bits takes one of \(4, 6, 8\), got"):
            lowbit.switch_bits(model, bits)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"model takes a torch\.nn\.Module, compiled or with compiled modules in it, got function"):
        lowbit.switch_bits(torch.compile(lambda x: x, backend="lowbit"), 4)
    run = compiled(model, "int8-vector")
    run(torch.randn(7, K))
    for each in (model, run):
        with pytest.raises(
            OptionError, match="has no weight whose bits can be switched: compile it with one of the recipes int8-switchable, call it"
        ):
            lowbit.switch_bits(each, 4)


def test_a_package_has_the_width_in_force(model: Gated, tmp_path: Path) -> None:
    run, x = compiled(model, "int8-switchable"), torch.randn(7, K)
    run(x)
    lowbit.switch_bits(run, 4)
    report = lowbit.export_package(model, x, tmp_path / "four.pt2", recipe="int8-switchable", plan="always")
    assert "2 weights are read in 4 bits (lowbit.switch_bits)" in report.notes
    assert torch.equal(torch._inductor.aoti_load_package(str(tmp_path / "four.pt2"))(x), expected(model, x, 4))
