"""One graph for several layers: ``ignore`` tells them apart, whatever holds them and however they came to be compiled."""

import copy
import gc
import logging
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.compiled import compiled, cosine, reports_of
from lowbit_compiler.compile.places import ByPlace, _Choice
from lowbit_compiler.report import SiteReport

OPTIONS = {"remainder": "eager", "plan": "always"}


class Layer(nn.Module):
    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(64) if norm is None else norm
        self.inner, self.out = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(self.norm(x)).relu())  # type: ignore[no-any-return]


class Model(nn.Module):
    """Equal layers, one after the other, each called by ``call``."""

    def __init__(self, shared: bool = False, call: Callable[[Tensor, nn.Module], Tensor] = lambda x, layer: layer(x)) -> None:
        super().__init__()
        norm = nn.LayerNorm(64) if shared else None
        self.encoder, self.call = nn.ModuleList([Layer(norm), Layer(norm), Layer(norm)]), call

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.encoder:
            x = self.call(x, layer)
        return x


def in_place(model: Model, ignore: str) -> Model:
    for layer in model.encoder:
        layer.compile(backend="lowbit", options={**OPTIONS, "ignore": [ignore]})
    return model.eval()


def in_float(model: Model) -> list[bool]:
    """Return which layers give what those of a copy in float give, to the last bit; the others are close."""
    truth, x = copy.deepcopy(model), torch.randn(8, 64)
    exact = []
    with torch.no_grad():
        model(x)
        for ours, theirs in zip(model.encoder, truth.encoder, strict=True):
            got, want = model.call(x, ours), theirs.forward(x)
            assert cosine(got, want) > 0.99
            exact.append(torch.equal(got, want))
    return exact


def found(run: Callable[[], Any]) -> dict[str, str]:
    """Return module -> decision, of all graphs that ``run`` compiles."""
    with torch.no_grad():
        _, reports = reports_of(run)
    assert not any(report.fallback for report in reports)
    every: list[SiteReport] = [site for report in reports for site in report.sites]
    return {site.module: site.decision for site in every}


@pytest.mark.parametrize("index", [0, 1])
def test_layers_that_share_a_norm_are_told_apart_by_what_they_do_not_share(index: int) -> None:
    """The norm's weight is what each layer reads first."""
    model = in_place(Model(shared=True), f"encoder.{index}")
    assert in_float(model) == [each == index for each in range(3)]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("index", [0, 2])
def test_what_layers_share_is_ignored_at_all_of_them_by_any_of_its_names(index: int) -> None:
    model = Model().eval()
    for layer in model.encoder:
        layer.inner = model.encoder[0].inner
    model = in_place(model, f"encoder.{index}.inner")
    assert found(lambda: model(torch.randn(8, 64))) == {"encoder.0.inner": "declined", "encoder.0.out": "rewritten"}


def test_a_second_model_leaves_in_float_what_is_ignored_anywhere(caplog: pytest.LogCaptureFixture) -> None:
    """Dynamo uses the first one's graph for its layers, whose names nobody knows."""
    first, second = (in_place(Model(), "encoder.1") for _ in range(2))
    assert in_float(first) == [False, True, False]
    with caplog.at_level(logging.WARNING, "lowbit_compiler"):
        assert in_float(second) == [True, True, True]
    assert sum("whose name is not known" in message for message in caplog.messages) == 1
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("index", [0, 1])
def test_functions_that_are_given_a_layer(index: int) -> None:
    def block(x: Tensor, layer: Layer) -> Tensor:
        x = layer.inner(layer.norm(x)).relu()
        torch._dynamo.graph_break()
        return layer.out(x)  # type: ignore[no-any-return]

    model = Model(call=torch.compile(block, backend="lowbit", options={**OPTIONS, "ignore": [f"encoder.{index}"]})).eval()
    x = torch.randn(8, 64)
    with torch.no_grad():
        model(x)
        exact = [torch.equal(model.call(x, layer), block(x, layer)) for layer in model.encoder]
    assert exact == [each == index for each in range(3)]


def test_weights_that_are_exchanged() -> None:
    layers = [nn.Linear(2, 2), nn.Linear(2, 2)]
    run = ByPlace(
        lambda weight: "unknown", 0, [_Choice(weakref.ref(layer), "weight", lambda weight, i=i: i) for i, layer in enumerate(layers)]
    )
    old = layers[0].weight
    assert [run(layer.weight) for layer in (*layers, *layers)] == [0, 1, 0, 1]
    layers[0].weight = nn.Parameter(torch.ones(2, 2))
    assert [run(old), run(layers[0].weight), run(layers[1].weight)] == ["unknown", 0, 1]
    layers[1].weight = old
    assert run(old) == 1


def two(a: nn.Module, b: nn.Module, x: Tensor) -> Tensor:
    return b(a(x))  # type: ignore[no-any-return]


def test_functions_that_are_given_two_layers() -> None:
    a, b, x = nn.Sequential(nn.Linear(64, 64)), nn.Sequential(nn.Linear(64, 64)), torch.randn(8, 64)
    assert sorted(found(lambda: compiled(two)(a, b, x))) == ["a.0", "b.0"]
    torch._dynamo.reset()
    assert sorted(found(lambda: compiled(lambda x, a, b: two(a, b, x))(x, a, b))) == ["a.0", "b.0"]


class Pipe:
    """Holds modules, and is none."""

    def __init__(self) -> None:
        self.a, self.b = nn.Sequential(nn.Linear(64, 64)), nn.Linear(64, 64)
        self.hold = {"c": nn.Sequential(nn.Linear(64, 64))}

    def run(self, x: Tensor) -> Tensor:
        x = self.a(x)
        torch._dynamo.graph_break()
        return self.hold["c"](self.b(x))  # type: ignore[no-any-return]


def test_modules_that_no_module_holds_are_named_by_what_holds_them() -> None:
    pipe = Pipe()
    decisions = found(lambda: compiled(pipe.run, fullgraph=False, ignore=["a", "hold.c"])(torch.randn(8, 64)))
    assert decisions == {"self.a.0": "declined", "self.b": "rewritten", "self.hold.c.0": "declined"}


def test_a_block_that_is_there_many_times_has_all_its_names() -> None:
    block = nn.Linear(64, 64)
    decisions = found(lambda: compiled(nn.Sequential(*[block] * 12), ignore=["10"])(torch.randn(8, 64)))
    assert decisions == {"0": "declined"}


def test_names_beside_a_script_module() -> None:
    blocks, x = [nn.Linear(64, 64), torch.jit.script(nn.Linear(64, 64)), nn.Linear(64, 64)], torch.randn(8, 64)
    assert found(lambda: compiled(lambda blocks, x: blocks[2](blocks[0](x)))(blocks, x)) == dict.fromkeys(
        ["blocks.0", "blocks.2"], "rewritten"
    )


def test_compiling_keeps_no_variable_of_its_callers_alive() -> None:
    model = Model().eval()
    kept = weakref.ref(model)
    with torch.no_grad():
        compiled(model)(torch.randn(8, 64))
    torch._dynamo.reset()
    del model
    gc.collect()
    assert kept() is None
