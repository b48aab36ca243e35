import torch
from torch._subclasses.fake_tensor import FakeTensorMode


def test_a_function_becomes_aten_calls(surface):
    aten = torch.ops.aten
    with FakeTensorMode():
        x, w = torch.empty(2, 8), torch.empty(4, 8)
        linear = surface.trace(torch.nn.functional.linear, (x, w), {})
        inner = surface.trace(torch.inner, (x, w), {aten.inner.default: aten.inner.default.decompose})
    assert aten.linear.default in {node.target for node in linear.graph.nodes}, "taken apart, as autograd would"
    assert aten.inner.default not in {node.target for node in inner.graph.nodes}
    assert all("val" in node.meta for node in linear.graph.nodes if node.op == "call_function")


def test_autocast_is_not_resolved(surface):
    def product(x):
        with torch.autocast("cpu", torch.bfloat16):
            return x @ x

    with FakeTensorMode():
        graph = surface.trace(product, (torch.empty(4, 4),), {}).graph
    (output,) = graph.find_nodes(op="output")
    assert output.args[0].meta["val"].dtype is torch.bfloat16
