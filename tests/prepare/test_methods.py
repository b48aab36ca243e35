"""The methods beside GPTQ: what they fold is exact, and what they choose loses less."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lowbit_compiler as lowbit
from helpers.prepared import INT4, Gated, correlated, inputs, parts_of, stack
from lowbit_compiler.errors import OptionError
from lowbit_compiler.preparing.block import Block
from lowbit_compiler.preparing.flexround import FlexRound
from lowbit_compiler.preparing.fold import Producer, producer_of
from lowbit_compiler.preparing.layer import layers, low_bit
from lowbit_compiler.preparing.learned_scales import LearnedScales, adaptive_rate, width_rate
from lowbit_compiler.recipes import RECIPES, Recipe

W4A8 = Recipe("w4a8", weights="int4-nested", activations="int8", group_size=32)
CLOSE = 2e-5  # float32 sums in another order, over the largest element


@pytest.fixture(scope="module")
def float_model() -> nn.Module:
    torch.manual_seed(0)
    return stack()


def rows(k: int = 64) -> list[Tensor]:
    return [correlated(60, k, seed).view(2, 30, k) for seed in range(3)]


def block_of(module: nn.Module) -> Block:
    module.eval().requires_grad_(False)
    return Block("block", module, layers(module, INT4), lambda: iter([((x,), {}) for x in rows()]))


def producers(module: nn.Module) -> dict[str, Producer | None]:
    block = block_of(module)
    return {" ".join(layer.name for layer in each.layers): producer_of(block, each) for each in block.inputs()}


def found(module: nn.Module) -> dict[str, str]:
    return {name: "" if producer is None else producer.name for name, producer in producers(module).items()}


class PostNorm(nn.Module):
    """The norm is read by a residual sum too, and an activation function stands between the linears."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(64), nn.Linear(64, 96), nn.Linear(96, 64)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        return h + self.down(nn.functional.gelu(self.up(h)))


class Attention(nn.Module):
    """q and k cannot be what o's channels are scaled in, v can."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(64)
        self.v, self.q, self.k, self.o = (nn.Linear(64, 64, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        return x + self.o(nn.functional.scaled_dot_product_attention(self.q(h), self.k(h), self.v(h)))


class Grouped(nn.Module):
    """Gemma's and Llama's kinds: a norm that multiplies by 1 + weight, and value heads that two query heads share."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = AddsOne()
        self.q, self.k, self.v, self.o = (nn.Linear(64, n, bias=n == 32) for n in (64, 32, 32, 64))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (each(h).unflatten(-1, (-1, 16)).transpose(1, 2) for each in (self.q, self.k, self.v))
        attended = nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return x + self.o(attended.transpose(1, 2).flatten(2))


class Temperature(nn.Module):
    """Its weight is a number and has no rows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class AddsOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(64) - 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, (64,)) * (1.0 + self.weight)


def test_norms_that_add_one_and_shared_value_heads() -> None:
    torch.manual_seed(0)
    block, x = block_of(Grouped()), rows()[0]
    first, second = (producer_of(block, each) for each in block.inputs())
    assert first is not None
    assert second is not None
    assert (first.name, first.offset, first.rows) == ("norm", 1.0, None)
    assert (second.name, second.offset) == ("v", 0.0)
    channel = torch.arange(64)
    assert torch.equal(second.rows, channel // 32 * 16 + channel % 16)  # type: ignore[arg-type]
    want, wanted = block.module(x), torch.rand(64) + 0.5
    taken = second.taken(wanted)
    assert torch.equal(taken[:16], taken[16:32])
    assert torch.allclose(taken[:16], (wanted[:16] * wanted[16:32]).sqrt())
    for producer in (first, second):
        before = producer.module.weight.clone()
        producer.fold(wanted)
        assert not torch.equal(producer.module.weight, before)
        assert (block.module(x) - want).abs().max() < CLOSE * want.abs().max()


def test_what_takes_the_scales_exactly() -> None:
    torch.manual_seed(0)
    assert found(Gated()) == {"up gate": "norm", "down": "up"}
    assert found(PostNorm()) == {"up": "", "down": ""}
    assert found(nn.Sequential(Temperature(), nn.RMSNorm(64), nn.Linear(64, 64))) == {"2": "1"}
    assert found(Attention()) == {"v q k": "norm", "o": "v"} or found(Attention()) == {"q k v": "norm", "o": "v"}
    assert {name: producer is not None and producer.shifts for name, producer in producers(Gated()).items()} == {
        "up gate": True,
        "down": False,
    }


def test_looking_for_it_changes_nothing() -> None:
    torch.manual_seed(0)
    for module in (Gated(), PostNorm(), Attention(), Grouped()):
        before = copy.deepcopy(module.state_dict())
        found(module)
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_fold_is_exact() -> None:
    torch.manual_seed(0)
    block, x = block_of(Gated()), rows()[0]
    want = block.module(x)
    scale, shift = torch.rand(64) + 0.5, torch.randn(64)
    inputs_of_up, inputs_of_down = block.inputs()
    for each, name, by in ((inputs_of_up, "norm", (scale, shift)), (inputs_of_down, "up", (torch.rand(96) + 0.5,))):
        before = block.module.get_submodule("up").weight.clone()
        Producer(block, each, name).fold(*by)
        assert not torch.equal(block.module.get_submodule("up").weight, before)
        assert (block.module(x) - want).abs().max() < CLOSE * want.abs().max()


@pytest.mark.parametrize(("method", "recipe"), [("awq", INT4), ("outlier_tune", W4A8)])
def test_folding_methods_leave_the_float_model_what_it_computes(float_model: nn.Module, method: str, recipe: Recipe) -> None:
    torch.manual_seed(0)
    float_model, x = spread(copy.deepcopy(float_model)), inputs(6)[5]
    model = lowbit.prepare(copy.deepcopy(float_model), recipe, inputs(), methods=[method])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, float_model.state_dict()[name])}
    assert {"blocks.0.norm.weight", "blocks.0.up.weight", "blocks.2.down.weight"} <= changed
    assert not any(name.startswith(("first", "last")) for name in changed)
    want = float_model(x)
    assert (model(x) - want).abs().max() < CLOSE * want.abs().max()
    assert len(parts_of(model)) == 11


def lost(float_model: nn.Module, model: nn.Module, recipe: Recipe) -> float:
    """Return the relative error of the low-bit model on inputs that calibration has not seen."""
    low, x = copy.deepcopy(model), inputs(6)[5]
    for name, prepared in parts_of(model).items():
        layer, parts = low.get_submodule(name), prepared.parts
        layer.forward = lambda x, layer=layer, parts=parts: recipe.plan.emulate(x, parts, layer.bias)  # type: ignore[method-assign, misc]
    want = float_model(x)
    return float((low(x) - want).norm() / want.norm())


def spread(model: nn.Module) -> nn.Module:
    """Give channels sizes that differ by a factor of 60, as outliers do; the model computes what it did."""
    for block in model.blocks:  # type: ignore[union-attr]
        scale = torch.logspace(-0.9, 0.9, 64)[torch.randperm(64)]
        block.norm.weight.mul_(scale)
        block.norm.bias.add_(1.0).mul_(scale)
        for layer in (block.up, block.gate):
            layer.bias.sub_(layer.weight.sum(1))
            layer.weight.div_(scale)
    return model


def test_awq_loses_less(float_model: nn.Module) -> None:
    torch.manual_seed(0)
    model = spread(copy.deepcopy(float_model))
    plain, scaled = (lowbit.prepare(copy.deepcopy(model), INT4, inputs(), methods=methods) for methods in ((), ("awq",)))
    assert lost(model, scaled, INT4) < 0.9 * lost(model, plain, INT4)


def test_outlier_tune_loses_less(float_model: nn.Module) -> None:
    torch.manual_seed(0)
    model = spread(copy.deepcopy(float_model))
    plain, tuned = (lowbit.prepare(copy.deepcopy(model), W4A8, inputs(), methods=methods) for methods in ((), ("outlier_tune",)))
    assert lost(model, tuned, W4A8) < 0.8 * lost(model, plain, W4A8)


def test_flexround_loses_less(float_model: nn.Module) -> None:
    plain = lowbit.prepare(copy.deepcopy(float_model), INT4, inputs(), methods=())
    learned = lowbit.prepare(copy.deepcopy(float_model), INT4, inputs(), methods=[FlexRound(steps=80, rate=5e-3)])
    assert all(one.method == "flexround" for one in parts_of(learned).values())
    assert lost(float_model, learned, INT4) < 0.8 * lost(float_model, plain, INT4)
    untaught = lowbit.prepare(copy.deepcopy(float_model), INT4, inputs(), methods=[FlexRound(steps=0)])
    assert 0.5 < lost(float_model, untaught, INT4) / lost(float_model, plain, INT4) < 1.3


def test_biases_take_the_mean_error(float_model: nn.Module) -> None:
    """Of every linear the mean output over the calibration rows becomes that of the float weight."""
    model = lowbit.prepare(copy.deepcopy(float_model), INT4, inputs(), methods=["bias_correction"], sequential=False)
    x = torch.cat([each.flatten(0, 1) for each in inputs()])
    layer, was = model.get_submodule("first"), float_model.get_submodule("first")
    got = INT4.plan.emulate(x, parts_of(model)["first"].parts, layer.bias)  # type: ignore[arg-type]
    assert (got - was(x)).mean(0).abs().max() < 1e-5 * was(x).abs().max()
    assert parts_of(model)["first"].method == "nearest, bias_correction"


def test_what_methods_changed_comes_back_with_a_checkpoint(float_model: nn.Module, tmp_path: Any) -> None:
    options: Any = {"methods": ["awq", "gptq"], "checkpoint": tmp_path}
    once = lowbit.prepare(copy.deepcopy(float_model), INT4, inputs(), **options)
    again = lowbit.prepare(copy.deepcopy(float_model), INT4, inputs(), **options)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in once.state_dict().items())
    assert all(
        torch.equal(a, b) for name, one in parts_of(once).items() for a, b in zip(one.parts, parts_of(again)[name].parts, strict=True)
    )


def error_in(block: Block, parts: list[tuple[Tensor, ...]], width: int) -> float:
    """Return the block's squared error for rows that it has not seen, its linears read in ``width`` bits, over what it is with float ones."""
    unseen = [correlated(60, 64, seed).view(2, 30, 64) for seed in range(10, 13)]
    wanted = [block.module(x) for x in unseen]
    for layer, part in zip(block.layers, parts, strict=True):
        layer.parts = layer.plan.w.format.narrow(part, width)
    with low_bit(block.layers):
        got = [block.module(x) for x in unseen]
    return float(sum((a - b).square().sum() for a, b in zip(got, wanted, strict=True)) / sum(b.square().sum() for b in wanted))


@torch.no_grad()
def test_learned_scales_lose_less_in_few_bits() -> None:
    """In 4 bits a tenth less, in 8 at most a quarter more."""
    torch.manual_seed(0)
    module = Gated().eval().requires_grad_(False)
    block = Block("block", module, layers(module, RECIPES["int8-switchable"]), lambda: iter([((x,), {}) for x in rows()]))
    nearest = [layer.plan.w.quantize(layer.treated) for layer in block.layers]
    LearnedScales(steps=80).apply(block)
    learned = [layer.parts for layer in block.layers]
    assert {layer.made_by[0] for layer in block.layers} == {"learned_scales"}
    assert all(int(parts[0].abs().max()) <= 127 for parts in learned)
    assert error_in(block, learned, 4) <= 0.9 * error_in(block, nearest, 4)
    assert error_in(block, learned, 8) <= 1.25 * error_in(block, nearest, 8)


def test_rates_of_widths() -> None:
    """Equation 7, and equation 6 kept above zero."""
    assert [width_rate(drop) for drop in (0, 1, 2, 3, 4, 6)] == pytest.approx([1.0, 0.5, 0.1, 0.05, 0.01, 0.001])
    small, large = torch.tensor([0.1, -0.3]), torch.tensor([-70.0])
    assert adaptive_rate(2.0, 2, [small, small]) == pytest.approx(2.0 * 0.1 * 0.7)
    assert adaptive_rate(2.0, 0, [small, large]) == pytest.approx(2.0 * 0.35)
    assert adaptive_rate(2.0, 0, [large]) == pytest.approx(2.0 * 0.01)


def test_prepared_weights_are_switched() -> None:
    """A compiled model takes them, in any width."""
    model = lowbit.prepare(stack(1), "int8-switchable", inputs(1), methods=[LearnedScales(steps=2)])
    run = torch.compile(model, backend="lowbit", options={"recipe": "int8-switchable", "plan": "always", "remainder": "eager"})
    with torch.no_grad():
        eight = run(inputs(1)[0])
        assert "5 weights as lowbit.prepare made them (learned_scales)" in lowbit.last_report().notes
        lowbit.switch_bits(run, 4)
        four = run(inputs(1)[0])
        assert not torch.equal(four, eight)
        lowbit.switch_bits(run, 8)
        assert torch.equal(run(inputs(1)[0]), eight)


def test_learned_scales_need_widths() -> None:
    with pytest.raises(OptionError, match="learned_scales takes weights whose bits can be switched, and recipe 'int8' has s8"):
        lowbit.prepare(stack(1), "int8", inputs(1), methods=["learned_scales"])
