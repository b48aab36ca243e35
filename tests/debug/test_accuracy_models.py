"""Accuracy of models that are not plain: names, graph breaks, state, special values, several lengths."""

import json

import pytest
import torch
from torch import Tensor, nn

from helpers import zoo
from helpers.broken import EAGER, Broken
from helpers.spoiled import spoiled
from lowbit_compiler.debug import accuracy, measure
from lowbit_compiler.errors import OptionError


def test_scales_that_are_not_a_number() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)).eval()
    with spoiled(model[0].weight, torch.nan):
        result = accuracy(model, (torch.randn(8, 64),), budget=0.1, **EAGER)
    assert [layer.broken for layer in result.layers] == [True, False]
    assert result.ignored == [result.layers[0].name]
    assert max(map(len, str(result).splitlines()[:3])) < 120
    json.loads(result.report.to_json(), parse_constant=lambda name: pytest.fail(name))


def test_several_inputs_of_several_lengths() -> None:
    """The second length makes a graph of its own: the same module there is the same layer."""
    model, _ = zoo.causal("Llama", num_hidden_layers=1)()
    result = accuracy(model, [{"input_ids": zoo.ids(tokens=tokens)} for tokens in (13, 9)], budget=0.002, **EAGER)
    assert len(result.layers) == 8
    assert result.report.graphs > 1
    assert result.met
    assert all(site.measured for site in result.report.rewritten if site.kind == "linear" and site.graph == 0)


def test_graph_breaks_tied_weights_and_nested_outputs() -> None:
    model = Broken().eval()
    result = accuracy(model, (torch.randint(64, (3, 20)),), recipe="int8", budget=1e-5, **EAGER)
    assert result.report.graphs == 3
    assert {layer.name for layer in result.layers} == {"up", "down", "out"}
    assert all((layer.measured.effect or 0) > 0 for layer in result.layers)
    assert result.met
    assert sorted(result.ignored) == ["down", "out", "up"]


class Slices(nn.Module):
    """Two products of one parameter, and modules whose names are part of others."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Parameter(torch.randn(2, 64, 64) / 8)
        self.blocks = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
        self.proj = nn.Linear(64, 64)
        self.inner = nn.ModuleDict({"proj": nn.Linear(64, 64)})

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.both:
            x = torch.relu(torch.nn.functional.linear(x, weight))
        return self.inner["proj"](torch.relu(self.proj(self.blocks(x))))


def test_names_reach_one_layer_each() -> None:
    model = nn.Sequential(Slices(), nn.Linear(64, 32)).eval()
    result = accuracy(model, (torch.randn(9, 64),), budget=0.0, **EAGER)
    names = {layer.name for layer in result.layers}
    assert names == {"0.both", "0.blocks.0", "0.blocks.1", "0.proj", "0.inner.proj", "re:^1$"}
    assert result.met
    assert set(result.ignored) == names
    for name in names:
        rest = sorted(names - {name})
        alone = measure(model, torch.randn(9, 64), ignore=rest, **EAGER)
        assert len([site for site in alone.rewritten if site.kind == "linear"]) == (2 if name == "0.both" else 1)


def test_not_a_number() -> None:
    """NaN that the float model has is no error; none of its own is one, and a layer that makes some is worst."""

    class Logarithm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.safe, self.edge = nn.Linear(64, 32), nn.Linear(64, 32)
            nn.init.zeros_(self.edge.weight)
            self.edge.weight.data[:, 0] = 2.0**-20  # lost beside the large element of the row
            self.edge.bias.data.zero_()

        def forward(self, x: Tensor) -> Tensor:
            low = self.edge(x)
            return torch.cat([self.safe(x), low.log(), x.log()], -1)

    x = torch.zeros(5, 64)
    x[:, 0], x[:, 1:3] = 1.0, 0.5
    x[:, 5] = 1000.0
    x[0, 8] = -1.0
    result = accuracy(Logarithm().eval(), (x,), recipe="int8-vector", budget=0.5, **EAGER)
    assert result.layers[0].name == "edge"
    assert result.layers[0].measured.effect == pytest.approx(torch.finfo(torch.float64).max)
    assert "inf" in str(result)
    json.loads(result.report.to_json(), parse_constant=lambda name: pytest.fail(name))
    assert result.ignored == ["edge"]
    with pytest.raises(OptionError, match="no element of the float model's outputs is finite"):
        accuracy(Logarithm().eval(), (torch.full((3, 64), torch.nan),), **EAGER)
    with pytest.raises(OptionError, match="metric of the float model is nan"):
        accuracy(nn.Linear(64, 32).eval(), (x,), metric=lambda _: torch.nan, **EAGER)


def test_inputs_and_weights_stay_as_they_are() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(64, 64)

        def forward(self, x: Tensor, seen: Tensor) -> Tensor:
            seen.add_(1)
            return self.line(x) * seen

    seen = torch.ones(1)
    result = accuracy(Counting().eval(), (torch.randn(8, 64), seen), budget=1e-6, **EAGER)
    assert result.ignored == ["line"]
    assert float(seen) == 1


class Buffered(nn.Module):
    """Counts its runs in a buffer written in place, and in one exchanged for another."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(64, 64)
        self.register_buffer("seen", torch.ones(1))
        self.register_buffer("last", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(1)
        self.last = self.last + 1
        return self.line(x) * self.seen * self.last


def test_buffers_and_random_numbers_are_the_same_in_every_run() -> None:
    model, inputs = Buffered().eval(), (torch.randn(8, 64),)
    before = torch.get_rng_state()
    result = accuracy(model, inputs, budget=1e-6, **EAGER)
    assert 0 < result.low.change < 0.1
    assert 0 < (result.layers[0].measured.effect or 0) < 0.1
    assert result.ignored == ["line"]
    assert (float(model.seen), float(model.last)) == (1, 1)
    assert torch.equal(before, torch.get_rng_state())


def test_an_input_with_a_history() -> None:
    model = nn.Linear(64, 64).eval()
    assert accuracy(model, (model(torch.randn(8, 64)),), budget=0.5, **EAGER).met
