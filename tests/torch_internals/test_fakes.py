import torch
from torch._subclasses.fake_tensor import FakeTensorMode


def test_dynamo_and_export_give_fake_values(surface):
    graphs = []

    def backend(gm, examples):
        graphs.append(gm)
        return gm.forward

    torch.compile(lambda x: x + 1, backend=backend)(torch.ones(3))
    (placeholder,) = graphs[0].graph.find_nodes(op="placeholder")
    assert isinstance(placeholder.meta["example_value"], surface.FakeTensor)
    exported = torch.export.export(torch.nn.Linear(3, 3), (torch.ones(2, 3),))
    assert all(isinstance(node.meta["val"], surface.FakeTensor) for node in exported.graph.find_nodes(op="placeholder"))


def test_equal_memory_can_be_told(surface):
    with FakeTensorMode():
        x = torch.empty(4, 4)
        assert x[0].untyped_storage()._cdata == x.untyped_storage()._cdata != torch.empty(4).untyped_storage()._cdata
    assert x.fake_mode is not None
