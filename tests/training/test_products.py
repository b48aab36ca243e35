"""The products of every plan: unbiased where they draw, within what a step of each format allows always, and exact where they add integers."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from helpers.bounds import EPS
from lowbit_compiler.runtime.formats import Operand
from lowbit_compiler.runtime.rounding import NEAREST
from lowbit_compiler.runtime.training import integers
from lowbit_compiler.runtime.training.backward import Backward, Draw, Float, Folded, Requantized
from lowbit_compiler.runtime.training.matrix import Matrix, integer_product, shapes
from lowbit_compiler.runtime.training.noise import Stream
from lowbit_compiler.runtime.training.plans import PLANS, plan_of
from lowbit_compiler.runtime.training.sampling import Sampled, halves, probabilities, systematic
from lowbit_compiler.runtime.treatments.treatment import at_once

NAMES = (*PLANS, "float-training(3, 2)", "sbits-training(7)")
M, N, K = 37, 45, 70  # no multiple of a block
DRAWS, DRAWS_OF_ROWS = 48, 200
"""For a mean and its standard error; rows that are rarely chosen count much, and take more."""


def operands(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Activation, weight and the gradient of the result: rows of very different size, and an empty one."""
    torch.manual_seed(1)
    x, w = torch.randn(M, K) + 0.3, torch.randn(N, K) / 8
    dy = torch.randn(M, N) * torch.exp(torch.randn(M, 1)) * 1e-3
    dy[5] = 0
    return x, w, dy


def saved(name: str) -> tuple[Matrix, Matrix | Tensor]:
    """Weight and activation as the backward pass finds them."""
    forward = plan_of(name).forward
    x, w, _ = operands(name)
    rows = forward.treatment.activation(at_once, x)[0]
    return Matrix.of(forward.w, forward.treatment.weight(at_once, w)), rows if forward.x is None else Matrix.of(forward.x, rows)


def products(name: str) -> list[tuple[Backward, Tensor, Matrix | Tensor]]:
    """The two backward products of a plan, with their operands."""
    plan, (w, x), dy = plan_of(name), saved(name), operands(name)[2]
    return [(plan.grad_input, dy, w), (plan.grad_weight, dy.t().contiguous(), x)]


def value(s: Matrix | Tensor) -> Tensor:
    return (s.value if isinstance(s, Matrix) else s).double()


def deviations(product: Backward, g: Tensor, s: Matrix | Tensor) -> Tensor:
    """How many standard errors the mean over draws is away from the product of the float gradient, beyond what 16-bit noise allows."""
    draws = DRAWS_OF_ROWS if isinstance(product, Sampled) else DRAWS
    got = torch.stack([product.product(g, s, Draw(torch.tensor([seed]), 2, 1)) for seed in range(draws)]).double()
    exact = g.double() @ value(s)
    allowed = 2.0**-14 * (g.double().abs() @ value(s).abs())  # the mean of each rounding is right to 2^-17 of a gap
    error = ((got.mean(0) - exact).abs() - allowed).clamp(min=0)
    return error / (got.std(0) / draws**0.5).clamp(min=1e-30)


@pytest.mark.parametrize("which", [0, 1], ids=["dX", "dW"])
@pytest.mark.parametrize("name", [name for name in NAMES if not isinstance(plan_of(name).grad_input, Float)])
def test_unbiased(name: str, which: int) -> None:
    product, g, s = products(name)[which]
    assert deviations(product, g, s).max() < 5


@pytest.mark.parametrize("name", ["int4-training", "mxfp4-training"])
def test_rounding_to_nearest_would_be_seen(name: str) -> None:
    product, g, s = products(name)[1]
    nearest = {field: replace(getattr(product, field), rounding=NEAREST) for field in ("gradient", "saved") if hasattr(product, field)}
    assert deviations(replace(product, **nearest), g, s).max() > 8


def _error(operand: Operand, x: Tensor) -> Tensor:
    """What quantization may move each element of ``x`` by."""
    return operand.scale.spread(operand.step(x).float(), x.shape[1]).double().expand(x.shape)


@pytest.mark.parametrize("which", [0, 1], ids=["dX", "dW"])
@pytest.mark.parametrize("name", NAMES)
def test_backward_is_within_the_steps_of_its_formats(name: str, which: int) -> None:
    product, g, s = products(name)[which]
    draw = Draw(torch.tensor([77]), 4, 1 + which)
    got = product.product(g, s, draw).double()
    size = g.double().abs() @ value(s).abs()
    match product:
        case Float():
            bound = torch.zeros_like(got)
        case Folded():
            scaled = g * s.unit.reshape(1, -1)
            bound = _error(product.gradient, scaled) @ s.codes.double().abs()
        case Sampled():
            return  # any choice of rows is within nothing: its mean and its variance are what counts
        case Requantized():
            treatment = product.treatment.drawn(draw.stream(2))
            a, b = treatment.activation(at_once, g)[0], treatment.weight(at_once, value(s).float().t().contiguous())
            da, db = _error(product.gradient, a), _error(product.saved, b)
            bound = da @ b.double().abs().t() + (a.double().abs() + da) @ db.t()
            size = a.double().abs() @ b.double().abs().t()
    limit = bound + 8 * EPS * (g.shape[1] + 8) * (size + bound)
    assert ((got - g.double() @ value(s)).abs() <= limit).all()
    assert bound.max() == 0 or ((got - g.double() @ value(s)).abs() > limit / 100).any()  # the bound is no formality


@pytest.mark.parametrize("name", NAMES)
def test_forward_is_the_product_of_the_kept_operands(name: str) -> None:
    forward, (x, w, _) = plan_of(name).forward, operands(name)
    bias = torch.randn(N)
    y, kept_x, kept_w = torch.ops.lowbit.train_linear(x, w, bias, torch.tensor([0]), 0, name, None)
    width = forward.treatment.padded(K)
    if not kept_w:  # the plan keeps the weight itself
        kept_w = torch.ops.lowbit.train_quantize(w, *plan_of(name).quantizer[1])
    b = Matrix.saved(forward.w, kept_w, width).value.double()
    a = x.double() if forward.x is None else Matrix.saved(forward.x, kept_x, width).value.double()
    bound = 2 * EPS * (width + 4) * (a.abs() @ b.abs().t() + bias.abs())
    assert ((y.double() - (a @ b.t() + bias)).abs() <= bound).all()
    if forward.x is not None:
        made = shapes(forward.x, x, M, width)
        assert [(one.shape, one.dtype) for one in made] == [(one.shape, one.dtype) for one in kept_x]


@pytest.mark.parametrize("name", NAMES)
def test_saving_loses_nothing(name: str) -> None:
    w, _ = saved(name)
    again = Matrix.saved(w.operand, w.save(), w.codes.shape[1])
    assert all(torch.equal(a, b) for a, b in zip(again.parts, w.parts, strict=True))
    assert (again.inside is None) == (w.inside is None)
    assert w.inside is None or torch.equal(again.inside, w.inside)


@pytest.mark.parametrize("name", ["int8-training", "int4-training", "mxfp4-training"])
@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_what_is_not_finite_stays_visible(name: str, bad: float) -> None:
    """A scaler of losses looks for it in the gradients."""
    x, w, dy = operands(name)
    x.requires_grad_()
    w.requires_grad_()
    dy[3, 4] = bad
    torch.ops.lowbit.train_linear(x, w, None, torch.tensor([0]), 0, name, None)[0].backward(dy)
    assert not x.grad[3].isfinite().any()
    assert x.grad[:3].isfinite().all()
    assert not w.grad.isfinite().all()


def _all_three(name: str) -> list[Tensor]:
    x, w, dy = operands(name)
    x.requires_grad_()
    w.requires_grad_()
    y = torch.ops.lowbit.train_linear(x, w, None, torch.tensor([3]), 1, name, None)[0]
    y.backward(dy)
    return [y.detach(), x.grad, w.grad]


@pytest.mark.parametrize("name", ["int8-training", "int4-training"])
def test_sums_that_int32_may_not_hold_are_plain_torch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_kernels = _all_three(name)
    monkeypatch.setattr(integers, "MAX_K", 8)
    monkeypatch.setattr(torch.ops.lowbit, "train_multiply", None)
    monkeypatch.setattr(torch.ops.lowbit, "train_fold", None)
    assert all(torch.equal(got, want) for got, want in zip(_all_three(name), with_kernels, strict=True))


def test_kernels_know_no_other_products() -> None:
    with pytest.raises(ValueError, match=r"one format of \[4, 8\] bits, got .* make it a TrainingPlan"):
        replace(PLANS["int4-training"], grad_weight=Float())


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16])
def test_integer_product_is_exact(dtype: torch.dtype) -> None:
    most = torch.iinfo(dtype).max
    a, b = (torch.full(shape, most, dtype=dtype) for shape in ((3, 1100), (1100, 2)))
    a[1] = -most
    assert (
        integer_product(a, b).tolist() == [[float(torch.tensor(sign * most**2 * 1100, dtype=torch.float64))] * 2 for sign in (1, -1, 1)]
        or (integer_product(a, b).double() - torch.tensor([[1.0], [-1.0], [1.0]], dtype=torch.float64) * most**2 * 1100).abs().max()
        <= EPS * most**2 * 1100
    )


def test_halves_are_the_whole() -> None:
    u = torch.arange(-98, 99).reshape(1, -1)
    high, low = halves(u).int()
    assert torch.equal(14 * high + low, u[0].int())
    assert halves(u).abs().max() == 7


@pytest.mark.parametrize("budget", [1, 40, 64, 90, 200])
def test_rows_are_chosen_with_their_probabilities(budget: int) -> None:
    torch.manual_seed(0)
    c = torch.randn(128).abs().double() * torch.randn(128).exp() ** 2
    c[10:20] = 0
    p = probabilities(c, budget)
    assert abs(p.sum() - min(budget, 118)) < 1e-9
    assert (p[10:20] == 0).all()
    below = (p < 1) & (p > 0)
    assert torch.allclose(p[below] / c[below], (p[below] / c[below]).mean()) or budget >= 118
    counts = torch.zeros(128)
    draws = 2000
    for seed in range(draws):
        chosen, weight = systematic(p, budget, Stream.of(torch.tensor([seed])))
        assert len(chosen) == budget
        taken = chosen[weight > 0]
        assert len(taken.unique()) == len(taken)
        counts[taken] += 1
    error = (counts.double() / draws - p).abs()
    assert (error <= 5 * (p * (1 - p) / draws).sqrt() + 1e-12).all()
