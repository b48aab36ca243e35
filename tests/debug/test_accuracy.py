"""Finding the layer that hurts: a spoiled weight is found first, and the list for a budget meets it through torch.compile."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import zoo
from helpers.spoiled import spoiled
from lowbit_compiler.compile import driver
from lowbit_compiler.debug import accuracy, measure
from lowbit_compiler.debug.metric import Judge
from lowbit_compiler.debug.search import fewest
from lowbit_compiler.errors import DebugError, LowbitError, OptionError
from lowbit_compiler.recipes import RECIPES, Recipe

EAGER: dict[str, Any] = {"remainder": "eager", "plan": "always"}


def causal(**changes: Any) -> tuple[nn.Module, dict[str, Any]]:
    """A small language model and inputs with labels."""
    model, inputs = zoo.causal("Llama", **changes)()
    return model, {**inputs, "labels": inputs["input_ids"]}


def compiled(model: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    torch._dynamo.reset()
    return torch.compile(model, backend="lowbit", options=options)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("recipe", "name"), [("int8", "model.layers.1.mlp.down_proj"), ("int8-weight-only", "model.layers.0.self_attn.o_proj")]
)
def test_a_spoiled_weight_is_found_first(recipe: str, name: str) -> None:
    model, inputs = zoo.causal("Llama")()
    with spoiled(model.get_submodule(name).weight, 1.5):
        result = accuracy(model, inputs, recipe=recipe, budget=0.03, **EAGER)
    assert result.layers[0].name == name
    assert result.layers[0].broken
    assert not any(layer.broken for layer in result.layers[1:])
    assert "error above its bound" in str(result)
    assert result.ignored == [name]
    assert result.met


@pytest.mark.parametrize(("recipe", "inputs"), [("int4-weight-only", 64), ("int8", 4096), ("int8-weight-only", 4096)])
def test_a_spoiled_weight_that_its_product_hides(recipe: str, inputs: int) -> None:
    """Its error stays within the product's bound, and its effect is not the largest."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small, self.large = nn.Linear(inputs, 64), nn.Linear(inputs, 64)

        def forward(self, x: Tensor) -> Tensor:
            return self.small(x) * 0.001 + self.large(x)

    model = Two().eval()
    with spoiled(model.small.weight, 1.1):
        result = accuracy(model, (torch.randn(8, inputs),), recipe=recipe, budget=10.0, **EAGER)
    assert [(layer.name, layer.broken) for layer in result.layers] == [("small", True), ("large", False)]
    assert (result.layers[0].measured.tightness or 0.0) <= 1
    assert (result.layers[0].measured.effect or 0.0) < (result.layers[1].measured.effect or 0.0)


def test_scales_that_are_not_a_number() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)).eval()
    with spoiled(model[0].weight, torch.nan):
        result = accuracy(model, (torch.randn(8, 64),), budget=0.1, **EAGER)
    assert [layer.broken for layer in result.layers] == [True, False]
    assert result.ignored == [result.layers[0].name]
    assert max(map(len, str(result).splitlines()[:3])) < 120
    json.loads(result.report.to_json(), parse_constant=lambda name: pytest.fail(name))


def test_ranked_by_what_each_does_alone() -> None:
    """Not by SQNR: all layers round alike, and what a scale of 3 does to the output is the largest effect, certificate or not."""
    model, inputs = causal()
    name = "model.layers.0.self_attn.v_proj"
    with spoiled(model.get_submodule(name).weight, 3.0):
        result = accuracy(model, inputs, recipe="int8-vector", budget=1.0, **EAGER)
    effects = {layer.name: layer.measured.effect or 0.0 for layer in result.layers}
    assert max(effects, key=lambda layer: effects[layer]) == name
    assert effects[name] > 10 * sorted(effects.values())[-2]
    worst = min(result.layers, key=lambda layer: layer.measured.sqnr or 0.0)
    assert worst.name == name


@pytest.mark.parametrize("recipe", [*RECIPES, Recipe("rows", treatment="rows", head="same")], ids=str)
def test_the_list_meets_the_budget_when_fed_back(recipe: str | Recipe) -> None:
    model, inputs = zoo.causal("Llama", num_hidden_layers=1)()
    with torch.no_grad():
        want = model(**inputs).logits
        error = lambda run: float((run(**inputs).logits - want).norm() / want.norm())
        before = error(compiled(model, {"recipe": recipe, **EAGER}))
        result = accuracy(model, inputs, recipe=recipe, budget=before / 2, **EAGER)
        assert result.kind == "relative error"
        assert result.low.change == pytest.approx(before, rel=1e-2)
        assert result.met
        assert 0 < len(result.ignored) < len(result.layers)
        after = error(compiled(model, result.options))
    assert result.reached is not None
    assert after == pytest.approx(result.reached.change, rel=1e-6)
    assert after <= before / 2
    given = json.loads(result.to_json())
    assert given["ignore"] == result.ignored
    assert ("recipe" in given) == isinstance(recipe, str)


def test_a_recipe_of_the_users_own_is_not_written_as_ours() -> None:
    result = accuracy(nn.Linear(64, 64).eval(), (torch.randn(8, 64),), recipe=Recipe("int8", treatment="none"), budget=0.5, **EAGER)
    assert json.loads(result.to_json()) == {**EAGER, "ignore": []}


def test_perplexity_is_the_budget_where_there_is_a_loss() -> None:
    model, inputs = causal(num_hidden_layers=1)
    result = accuracy(model, inputs, recipe="int4-weight-only", budget=0.0005, **EAGER)
    assert result.kind == "perplexity"
    with torch.no_grad():
        assert result.before == pytest.approx(float(model(**inputs).loss.exp()), rel=1e-5)
        after = float(compiled(model, result.options)(**inputs).loss.exp())
    assert result.met
    assert after <= result.before * 1.0005


def test_already_within_the_budget() -> None:
    model, inputs = causal(num_hidden_layers=1)
    result = accuracy(model, inputs, budget=1.0, ignore=["lm_head"], **EAGER)
    assert result.met
    assert result.ignored == []
    assert result.options["ignore"] == ["lm_head"]
    assert "lm_head" not in [layer.name for layer in result.layers]
    assert len(result.layers) == 7


def test_budget_that_nothing_meets() -> None:
    model, inputs = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)).eval(), (torch.randn(9, 64),)
    asked: list[Any] = []

    def rising(output: Any) -> float:
        asked.append(output)
        return float(max(len(asked) - 1, 1))  # the float model is asked about twice

    result = accuracy(model, inputs, metric=rising, budget=0.0, **EAGER)
    assert result.kind == "metric"
    assert not result.met
    assert result.reached is None
    assert "not even all layers in float" in str(result)


def test_several_inputs_of_several_lengths() -> None:
    """The second length makes a graph of its own: the same module there is the same layer."""
    model, _ = zoo.causal("Llama", num_hidden_layers=1)()
    result = accuracy(model, [{"input_ids": zoo.ids(tokens=tokens)} for tokens in (13, 9)], budget=0.002, **EAGER)
    assert len(result.layers) == 8
    assert result.report.graphs > 1
    assert result.met
    assert all(site.measured for site in result.report.rewritten if site.kind == "linear" and site.graph == 0)


class Broken(nn.Module):
    """A graph break between two products, a parameter read without a module, and tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 48)
        self.up = nn.Linear(48, 80)
        self.down = nn.Parameter(torch.randn(48, 80) / 9)
        self.out = nn.Linear(48, 64, bias=False)
        self.out.weight = self.table.weight

    def forward(self, ids: Tensor) -> tuple[int, dict[str, Tensor]]:
        x = torch.relu(self.up(self.table(ids)))
        torch._dynamo.graph_break()
        x = x @ self.down.t()
        torch._dynamo.graph_break()
        return 3, {"scores": self.out(x), "hidden": x}


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


def test_no_low_bit_product() -> None:
    result = accuracy(nn.Linear(8, 8).eval(), (torch.randn(4, 8),), **EAGER)
    assert result.layers == []
    assert result.met
    assert "nothing to rank" in str(result)


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


def test_a_model_that_differs_from_run_to_run() -> None:
    class Restless(nn.Linear):
        runs = 0

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            return super().forward(x) * self.runs

    with pytest.raises(DebugError, match=r"gives other values when it is run again on the same inputs \(relative error \+100.000%\)"):
        accuracy(Restless(64, 64).eval(), (torch.randn(8, 64),), **EAGER)


def test_a_graph_left_in_float_does_not_count_as_met(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any) -> Any:
        graphs.append(args)
        if len(graphs) == 1:
            raise RuntimeError("the first graph fails")
        return compile_captured(*args)

    graphs: list[Any] = []
    compile_captured = driver.compile_captured
    monkeypatch.setattr(driver, "compile_captured", failing)
    with pytest.raises(DebugError, match="a graph was left in float: RuntimeError: the first graph fails"):
        accuracy(Broken().eval(), (torch.randint(64, (3, 20)),), budget=1.0, **EAGER)
    assert len(graphs) == 3


def test_an_input_with_a_history() -> None:
    model = nn.Linear(64, 64).eval()
    assert accuracy(model, (model(torch.randn(8, 64)),), budget=0.5, **EAGER).met


def test_the_users_code_raises() -> None:
    model, x = nn.Linear(64, 64).eval(), torch.randn(8, 64)
    with pytest.raises(DebugError, match="the float model fails by itself, without lowbit: RuntimeError: mat1 and mat2"):
        accuracy(model, (torch.randn(8, 63),), **EAGER)
    with pytest.raises(OptionError, match="broken, given a Tensor, raised AttributeError: 'Tensor' object has no attribute 'loss'"):
        accuracy(model, (x,), metric=broken, **EAGER)
    with pytest.raises(OptionError, match="the inputs cannot be copied, which every run needs: TypeError"):
        accuracy(model, ((each for each in "ab"),), **EAGER)


def broken(output: Any) -> float:
    return float(output.loss)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": -0.1}, "budget takes a number >= 0"),
        ({"free_weights": True}, "option 'free_weights' takes False here"),
        ({"recipe": "int9"}, "unknown recipe 'int9'"),
        ({"samples": ()}, "list of these, got an empty tuple"),
        ({"samples": 3}, "list of these, got int"),
        ({"ignore": ["nothing"]}, "matches no module or parameter"),
    ],
)
def test_mistakes(arguments: dict[str, Any], message: str) -> None:
    samples = arguments.pop("samples", (torch.randn(8, 64),))
    with pytest.raises(LowbitError, match=message):
        accuracy(nn.Linear(64, 64).eval(), samples, **arguments)


def test_an_output_without_floats() -> None:
    with pytest.raises(OptionError, match="holds no float tensor, got Tensor"):
        Judge([torch.ones(3, dtype=torch.int64)])


def test_fewest() -> None:
    for needed in ({0}, {1}, {0, 3}, {2, 5}, set(), {7}):
        asked: list[int] = []

        def enough(out: Any, needed: set[int] = needed, asked: list[int] = asked) -> bool:
            asked.append(len(out))
            return needed <= set(out)

        assert fewest(range(8), enough) == sorted(needed)
        assert len(asked) <= 2 + 3 + 7
    assert fewest(range(8), lambda _: False) is None
    assert fewest([], lambda _: False) is None


def test_str() -> None:
    result = accuracy(nn.Linear(64, 64).eval(), (torch.randn(8, 64),), budget=0.5, **EAGER)
    assert 'torch.compile(model, backend="lowbit", options=' in str(result)
