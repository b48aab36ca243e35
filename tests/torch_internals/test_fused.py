import torch
from torch import nn


def called(model, *inputs, **keywords):
    targets = []

    def backend(gm, examples):
        targets.extend(node.target for node in gm.graph.nodes if node.op == "call_function")
        return gm.forward

    with torch.no_grad():
        torch.compile(model, backend=backend)(*inputs, **keywords)
    return targets


def test_fused_forwards_have_these_names(surface):
    x = torch.randn(2, 5, 32)
    attention = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    weights = (attention.in_proj_weight, attention.in_proj_bias, attention.out_proj.weight, attention.out_proj.bias)
    with torch.no_grad():
        for function in surface.NATIVE_ATTENTION:
            torch.testing.assert_close(function(x, x, x, 32, 4, *weights), attention(x, x, x))
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    assert set(called(layer, x)) & set(surface.ENCODER_LAYER)


def test_the_int8_product_is_exact(surface):
    a, b = torch.randint(-128, 128, (32, 64), dtype=torch.int8), torch.randint(-128, 128, (64, 32), dtype=torch.int8)
    assert torch.equal(surface.int_mm(a, b), a.int() @ b.int())
