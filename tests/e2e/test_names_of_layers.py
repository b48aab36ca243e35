"""Layers compiled one by one, and weights under several names: all of the names count."""

import copy

import pytest
import torch
from torch import Tensor, nn

from helpers.compiled import compiled, cosine
from helpers.named import OPTIONS, PRODUCTS, Layer, Model, X, modules, sites


@pytest.mark.parametrize("how", ["replaced", "in place"])
@pytest.mark.parametrize("breaks", [False, True])
def test_blocks_compiled_one_by_one_have_their_names_in_the_model(how: str, breaks: bool) -> None:
    model, x = Model(breaks).eval(), torch.randn(X)
    for index, layer in enumerate(model.encoder):
        if how == "in place":
            layer.compile(backend="lowbit", options=OPTIONS)
        else:
            model.encoder[index] = torch.compile(layer, backend="lowbit", options=OPTIONS)
    found = modules(sites(lambda: model(x)))
    assert {"encoder.0", "encoder.0.inner"} <= set(found) <= set(PRODUCTS)
    torch._dynamo.reset()
    alone = Layer(breaks).eval()
    assert modules(sites(lambda: compiled(alone, fullgraph=False)(x))) == ["inner", "mix"]


class Shared(nn.Module):
    """One block under two names, a weight under two, and a parametrized one."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.Sequential(nn.Linear(64, 64))
        self.first, self.second = block, block
        self.table, self.head = nn.Embedding(48, 64), nn.Linear(64, 48, bias=False)
        self.head.weight = self.table.weight
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(64, 64))
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(64, 64))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.first(self.table(ids))
        return self.head(self.spectral(self.normed(self.second(x))))


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        (None, []),
        ("first", ["first.0"]),
        ("second.0", ["first.0"]),
        ("re:^second", ["first.0"]),
        ("head", ["head"]),
        ("head.weight", ["head"]),
        ("table.weight", ["head"]),
        ("normed", ["normed"]),
        ("normed.parametrizations.weight.original0", ["normed"]),
        ("spectral", ["spectral"]),
    ],
)
def test_every_name_of_what_is_shared_counts(pattern: str | None, left: list[str]) -> None:
    model = Shared().eval()
    ignore = [] if pattern is None else [pattern]
    found = sites(lambda: compiled(model, ignore=ignore)(torch.arange(8)))
    linear = [site for site in found if site.kind == "linear" and site.detail != "computed from parameters alone"]
    assert modules(linear) == ["first.0", "head", "normed", "spectral"]
    assert set(modules(linear)) <= set(dict(model.named_modules()))
    assert modules([site for site in linear if site.reason == "filtered by the user"]) == left
    assert all(site.decision == "rewritten" for site in linear if site.module not in left)


@pytest.mark.parametrize("recipe", ["int8", "int8-weight-only"])
@pytest.mark.parametrize("ignore", ["encoder.1", "encoder.0.inner", "re:\\.1\\.inner$", "classifier"])
@pytest.mark.parametrize("how", ["replaced", "in place"])
def test_a_graph_that_serves_several_layers_leaves_the_ignored_ones_in_float(how: str, ignore: str, recipe: str) -> None:
    """Dynamo compiles equal layers once; what is left in float is exact, the other layers are not."""
    model, x = Model(alike=True).eval(), torch.randn(X)
    truth, inputs = copy.deepcopy(model), [torch.randn(X), torch.randn(X)]
    with torch.no_grad():
        want = [layer(x) for layer, x in zip(truth.encoder, inputs, strict=True)]
    options = {**OPTIONS, "recipe": recipe, "ignore": [ignore]}
    for index, layer in enumerate(list(model.encoder)):
        if how == "in place":
            layer.compile(backend="lowbit", options=options)
        else:
            model.encoder[index] = torch.compile(layer, backend="lowbit", options=options)
    with torch.no_grad():
        for _ in range(2):
            model(x)
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        got = [layer(x) for layer, x in zip(model.encoder, inputs, strict=True)]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs == 1
    for index, (ours, theirs) in enumerate(zip(got, want, strict=True)):
        assert cosine(ours, theirs) > 0.99
        assert torch.equal(ours, theirs) == (ignore == f"encoder.{index}")


def test_weights_released_with_layers_compiled_one_by_one_are_ignored_at_all_places() -> None:
    model, x = Model(alike=True).eval(), torch.randn(X)
    for layer in model.encoder:
        layer.compile(backend="lowbit", options={**OPTIONS, "ignore": ["encoder.1.inner"], "free_weights": True})
    found = sites(lambda: model(x))
    assert {site.module: site.decision for site in found} == {"encoder.0": "rewritten", "encoder.0.inner": "declined"}
