import operator

import torch
from torch import fx, nn


def test_weights_are_static_inputs(surface):
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner

    graph = fx.Graph()
    x, weight = graph.placeholder("x"), graph.placeholder("weight")
    graph.output((graph.call_function(operator.matmul, (x, weight)),))
    gm = fx.GraphModule(nn.Module(), graph)
    surface.mark_static(gm, {"weight"})
    seen = []

    def inner(*args, **kwargs):
        seen.append(list(kwargs["static_input_idxs"]))
        return compile_fx_inner(*args, **kwargs)

    inputs = [torch.randn(3, 4), torch.randn(4, 5)]
    with torch.no_grad():
        (y,) = compile_fx(gm, inputs, inner_compile=inner)(*inputs)
    torch.testing.assert_close(y, inputs[0] @ inputs[1])
    assert seen == [[1]]


def test_joint_graph_has_forward_and_backward(surface):
    graph = fx.Graph()
    x, weight = graph.placeholder("x"), graph.placeholder("weight")
    graph.output((graph.call_function(operator.matmul, (x, weight)),))
    gm = fx.GraphModule(nn.Module(), graph)
    inputs = [torch.randn(3, 4), torch.randn(4, 5, requires_grad=True)]
    joint = surface.joint_graph(gm, inputs)
    products = [node for node in joint.graph.nodes if node.target is torch.ops.aten.mm.default]
    assert len(products) == 2  # y, and the gradient of the weight
    assert len(joint.graph.find_nodes(op="placeholder")) == 3  # with the gradient of y
    assert surface.joint_graph(gm, [each.detach() for each in inputs]) is None
