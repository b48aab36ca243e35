"""What goes to torch_tensorrt: the QDQ form with weights as constants, built anew where these are others. torch_tensorrt itself is not run."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from helpers.compiled import compiled
from lowbit_compiler.compile.history import last_report
from lowbit_compiler.exits.torch_tensorrt import engines, exit
from lowbit_compiler.exits.torch_tensorrt.converters import CONVERTERS
from lowbit_compiler.exits.torch_tensorrt.whole import keep_whole, whole_ops
from lowbit_compiler.passes.graph import calls
from lowbit_compiler.recipes import RECIPES
from lowbit_compiler.torch_internals import torch_tensorrt

ops = torch.ops.lowbit
WHOLE = torch.ops.lowbit_whole


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(128, 96)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.up(x))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[fx.GraphModule]:
    """The graphs that torch_tensorrt is given, which run as they are; a CPU stands for the GPU."""
    given: list[fx.GraphModule] = []

    def compile_graph(gm: fx.GraphModule, examples: list[Any]) -> Callable[..., Any]:
        placeholders = gm.graph.find_nodes(op="placeholder")
        assert [example.shape for example in examples] == [node.meta["val"].shape for node in placeholders]
        given.append(gm)
        return gm.forward

    monkeypatch.setattr(torch_tensorrt, "unusable", lambda: "")
    monkeypatch.setattr(torch_tensorrt, "compile_graph", compile_graph)
    monkeypatch.setattr(engines, "_register", lambda: None)
    monkeypatch.setattr(exit, "_device", lambda examples: "cpu")
    return given


def converters_of(gm: fx.GraphModule) -> dict[str, bool]:
    """Return the name of each op of ours in ``gm`` -> whether its converter takes it."""
    known = {whole_ops().get(op, op): converter for op, converter in CONVERTERS.items()}
    nodes = [node for node in gm.graph.nodes if calls(node, *known)]
    return {node.target.name(): engines._fits(known[node.target], node) for node in nodes}


@torch.no_grad()
def test_a_product_is_that_of_dequantized_operands(built: list[fx.GraphModule]) -> None:
    """In float64, of the codes: sums of 128 terms, and three more roundings."""
    layer, x = Layer().eval(), torch.randn(5, 128)
    y = compiled(layer, "int8-vector", remainder="tensorrt")(x)
    (q, scale), (codes, unit) = ops.quantize_s8(x), ops.quantize_s8(layer.up.weight)
    products = (q.double() * scale) @ (codes.double() * unit).t()
    size = (q.double() * scale).abs() @ (codes.double() * unit).abs().t() + layer.up.bias.double().abs()
    error = (y.double() - torch.relu(products + layer.up.bias.double())).abs()
    assert (error <= (128 + 3) * 2.0**-24 * size).all()
    assert last_report().sites[0].decision == "rewritten"
    (gm,) = built
    assert sorted(str(buffer.dtype) for buffer in gm.buffers()) == ["torch.float32", "torch.int8"]
    assert "up.weight" not in str([node.target for node in gm.graph.find_nodes(op="placeholder")])


CONVERTED = {
    "int8": ("lowbit::rotate", "lowbit::quantize_s8", "lowbit::codes_as_float", "lowbit_whole::dequantize_columns"),
    "int8-weight-only": ("lowbit_whole::dequantize_columns",),
    "int4-weight-only": ("lowbit_whole::dequantize_u4",),
    "int4-int8": ("lowbit::rotate", "lowbit::quantize_s8", "lowbit_whole::dequantize_u4_nested", "lowbit_whole::dequantize_s8"),
    "ternary-weight-only": ("lowbit_whole::dequantize_ternary_grouped",),
}


@torch.no_grad()
@pytest.mark.parametrize("recipe", CONVERTED)
def test_converters_take_what_stands_there(recipe: str, built: list[fx.GraphModule]) -> None:
    compiled(Layer().eval(), recipe, remainder="tensorrt")(torch.randn(5, 128))
    assert converters_of(built[0]) == dict.fromkeys(CONVERTED[recipe], True)


@torch.no_grad()
def test_engines_follow_the_weights(built: list[fx.GraphModule]) -> None:
    layer, x = Layer().eval(), torch.randn(5, 128)
    run, packed = compiled(layer, "int8", remainder="tensorrt"), compiled(layer, "int8")
    before = run(x)
    assert torch.equal(run(x), before)
    assert len(built) == 1
    layer.up.weight.mul_(-2.0)
    layer.up.bias.add_(1.0)  # stays an input
    torch.testing.assert_close(run(x), packed(x), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(run(x), before)
    assert len(built) == 2


@torch.no_grad()
def test_layers_of_the_same_code_have_engines_of_their_own(built: list[fx.GraphModule], monkeypatch: pytest.MonkeyPatch) -> None:
    """And these go with their weights."""
    made: list[engines.Engines] = []
    monkeypatch.setattr(engines.Engines, "__init__", kept(engines.Engines.__init__, made))
    first, second, x = Layer().eval(), Layer().eval(), torch.randn(5, 128)
    for layer in (first, second, first):
        layer.compile(backend="lowbit", options={"recipe": "int4-weight-only", "remainder": "tensorrt", "plan": "always"})
        weight = RECIPES["int4-weight-only"].plan.w
        expected = torch.relu(nn.functional.linear(x, weight.dequantize(weight.quantize(layer.up.weight)), layer.up.bias))
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    assert len(built) == 2
    assert [len(each._built) for each in made] in ([2], [1, 1])
    built.clear()
    del layer, first, second
    gc.collect()
    assert not any(each._built for each in made)


def kept(begin: Callable[..., None], made: list[Any]) -> Callable[..., None]:
    def extended(self: Any, *args: Any) -> None:
        begin(self, *args)
        made.append(self)

    return extended


def test_no_trace_takes_a_dequantization_apart() -> None:
    """Nor does torch tell it from a function of what it comes after, so that nobody computes it beforehand."""
    kind = RECIPES["int4-weight-only"].plan.w
    parts, x = kind.quantize(torch.randn(48, 64)), torch.randn(3, 64)

    class Product(nn.Module):
        def forward(self, x: Tensor, *parts: Tensor) -> Tensor:
            return x @ WHOLE.dequantize_u4(*parts, *kind.arguments, torch.float32, x).t()

    whole_ops()
    program = torch.export.export(Product(), (x, *parts)).run_decompositions()
    called = [node.target for node in program.graph.find_nodes(op="call_function", target=WHOLE.dequantize_u4.default)]
    assert len(called) == 1
    torch.testing.assert_close(program.module()(x, *parts), x @ kind.dequantize(parts).t(), rtol=0, atol=0)


def test_every_product_has_a_dequantization_of_its_own() -> None:
    """After its other operand: beside it, in whatever engine that is."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    q, scale = graph.get_attr("q"), graph.get_attr("scale")
    weight = graph.call_function(ops.dequantize_columns.default, (q, scale))
    y = graph.call_function(torch.ops.aten.matmul.default, (x, weight))
    z = graph.call_function(torch.ops.aten.matmul.default, (y, weight))
    graph.output((z, weight))
    for node in (x, y, z):
        node.meta["val"] = torch.empty(4, 4)
    keep_whole(graph)
    own = graph.find_nodes(op="call_function", target=WHOLE.dequantize_columns.default)
    assert [node.args[-1] for node in own] == [x, y, None]
    assert [list(node.users) for node in own] == [[y], [z], [graph.output_node()]]


def test_weights_must_be_the_last_inputs() -> None:
    graph = fx.Graph()
    graph.output((graph.placeholder("w"), graph.placeholder("x")))
    with pytest.raises(RuntimeError, match=r"the weights are not the last inputs: w of w, x"):
        engines.Engines(fx.GraphModule(nn.Module(), graph), ["w"])


@torch.no_grad()
def test_graphs_on_a_cpu_are_compiled_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_tensorrt, "unusable", lambda: "")
    monkeypatch.setattr(torch_tensorrt, "compile_graph", pytest.fail)
    layer, x = Layer().eval(), torch.randn(5, 128)
    run = compiled(layer, "int8", remainder="tensorrt")
    torch.testing.assert_close(run(x), compiled(layer, "int8", remainder="inductor")(x), rtol=0, atol=0)
