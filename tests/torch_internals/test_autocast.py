import torch
from torch import fx


def test_a_region_that_is_switched_off_computes_in_float32(surface):
    x = torch.randn(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype is torch.bfloat16
        with surface.disabled():
            assert (x @ x).dtype is torch.float32


def test_dynamo_writes_regions_with_these_functions(surface):
    graphs = []

    def backend(gm: fx.GraphModule, examples):
        graphs.append(gm)
        return gm.forward

    @torch.compile(backend=backend)
    def product(x):
        with torch.autocast("cpu", torch.bfloat16):
            return x @ x

    product(torch.randn(4, 4))
    called = {node.target: node for node in graphs[0].graph.nodes if node.op == "call_function"}
    assert called[surface.EXIT].args[0] is called[surface.ENTER]
    assert called[surface.ENTER].args[:2] == ("cpu", torch.bfloat16)
