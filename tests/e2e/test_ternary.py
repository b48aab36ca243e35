"""Models that were trained ternary: their weights are found again exactly, whatever number of scales a matrix has, and so are packed ones."""

import pytest
import torch
from torch import Tensor, nn

import lowbit_compiler
from helpers import bounds
from helpers.compiled import compiled, linears, reports_of
from lowbit_compiler.recipes import RECIPES

transformers = pytest.importorskip("transformers")
bitnet = pytest.importorskip("transformers.integrations.bitnet")
SHARDS, LAYERS = 2, 2
ALONG_K = ("o_proj", "down_proj")  # which tensor parallelism cuts along K; the others along N


def ternary(n: int, k: int) -> Tensor:
    return torch.randint(-1, 2, (n, k)).float()


def with_scales(codes: Tensor, dim: int) -> Tensor:
    """Return TriLM's weight: a float16 scale for each shard."""
    scales = (0.02 + 0.01 * torch.rand(SHARDS)).half().float()
    return torch.cat([part * scale for part, scale in zip(codes.chunk(SHARDS, dim), scales, strict=True)], dim)


@pytest.fixture(scope="module")
def trilm():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=256, intermediate_size=512, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2, vocab_size=70
    )
    model = transformers.LlamaForCausalLM(config).eval().requires_grad_(False)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            module.weight.copy_(with_scales(ternary(*module.weight.shape), int(name.endswith(ALONG_K))))
    return model


@pytest.mark.parametrize("tokens", [1, 12])
def test_a_model_with_several_scales_a_matrix(trilm, tokens):
    """Weights of every product are those of the model, and logits within what a few rows are rounded by: 2 FIXED of the largest a product."""
    recipe = RECIPES["ternary-weight-only"]
    for name, module in trilm.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            assert torch.equal(recipe.plan.w.dequantize(recipe.plan.w.quantize(module.weight)), module.weight)
    x = torch.randint(0, 70, (1, tokens), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        got, (report,) = reports_of(lambda: compiled(trilm, recipe, ignore=["lm_head"])(x, use_cache=False).logits)
        want = trilm.double()(x, use_cache=False).logits
    trilm.float()
    assert {site.lowered_to for site in linears(report)} == {"lowbit::linear_fternary_grouped"}
    assert len(linears(report)) >= 4 * LAYERS  # q, k and v may be one, gate and up too
    bound = 7 * LAYERS * (2 * bounds.FIXED + 2 * bounds.EPS * 512)
    assert float((got.double() - want).norm() / want.norm()) < bound


def packed_layer(n: int, k: int, bias: bool) -> tuple[nn.Module, Tensor]:
    """Return a layer as checkpoints have it, and its codes."""
    codes = ternary(n, k).to(torch.int8)
    layer = bitnet.BitLinear(k, n, bias=bias, dtype=torch.float32)
    layer.weight.copy_(bitnet.pack_weights(codes.clone()))
    layer.weight_scale.fill_(37.5)
    if bias:
        layer.bias.copy_(torch.randn(n))
    return layer, codes


def test_packed_weights_of_bitnet():
    """Layers become linears of their weights, and the integers of the recipe are those of the codes."""
    torch.manual_seed(0)
    (first, a), (second, b) = packed_layer(96, 64, True), packed_layer(32, 96, False)
    model = lowbit_compiler.from_bitnet(nn.Sequential(first, nn.ReLU(), second))
    assert [type(module) for module in model] == [nn.Linear, nn.ReLU, nn.Linear]
    assert torch.equal(model[0].weight, a / torch.tensor(37.5))
    assert torch.equal(model[2].weight, b / torch.tensor(37.5))
    x = torch.randn(3, 64)
    with torch.no_grad():
        got, (report,) = reports_of(lambda: compiled(model[0], RECIPES["ternary"])(x))
    assert [site.lowered_to for site in linears(report)] == ["lowbit::linear_s8ternary"]
    q, scale = torch.ops.lowbit.quantize_s8(x)
    expected = bounds.linear_s8s8(q, scale, a, model[0].weight.abs().amax(1), first.bias, torch.float32)
    bounds.assert_within(got, *expected)


def test_floats_of_bitnet():
    """Layers that hold ternary floats, or what they are made of at every call; a norm stays in front."""
    torch.manual_seed(0)
    offline, online = (bitnet.AutoBitLinear(64, 32, bias=False, online_quant=online, use_rms_norm=online) for online in (False, True))
    offline.weight.data, offline.weight_scale = ternary(32, 64), torch.tensor([0.25])
    model = lowbit_compiler.from_bitnet(nn.Sequential(offline, online))
    assert torch.equal(model[0].weight, offline.weight * 0.25)
    assert model[1][0] is online.rms_norm
    scale = 1 / online.weight.abs().mean().clamp(min=1e-5)  # as bitnet.WeightQuant has it, which compiles itself
    assert torch.equal(model[1][1].weight, (online.weight * scale).round().clamp(-1, 1) / scale)
    assert type(lowbit_compiler.from_bitnet(offline)) is nn.Linear


def test_a_bias_that_the_layer_scales_and_a_layer_in_two_places():
    """A layer of ternary floats multiplies its whole result by the scale, a packed one only the product."""
    torch.manual_seed(0)
    offline, (packed, _) = bitnet.AutoBitLinear(64, 32, online_quant=False), packed_layer(32, 64, True)
    offline.weight.data, offline.weight_scale = ternary(32, 64), torch.tensor([0.25])
    biases = offline.bias.detach() * 0.25, packed.bias
    model = lowbit_compiler.from_bitnet(nn.ModuleList([offline, packed, packed]))
    assert all(torch.equal(linear.bias, bias) for linear, bias in zip(model, biases, strict=False))
    assert type(model[2]) is nn.Linear
    assert model[2] is model[1]


def test_what_is_no_bitnet():
    with pytest.raises(ValueError, match="takes a model with BitNet layers of transformers, got Linear without one"):
        lowbit_compiler.from_bitnet(nn.Linear(4, 4))
    layer, _ = packed_layer(8, 16, False)
    layer.weight[1, 2] = 0xC0
    with pytest.raises(ValueError, match=r"takes packed weights of the codes 0, 1 and 2, got 3 in 0"):
        lowbit_compiler.from_bitnet(nn.Sequential(layer))
