"""Models that train: what becomes of their linears, whose gradients they get, and all that a training loop has around them."""

import logging

import pytest
import torch
from torch import Tensor, nn

import lowbit_compiler as lowbit
from helpers.compiled import compiled, cosine, reports_of
from helpers.training import LINEARS, Model, equal, far, gradients, loss_of, ops_called, text, train
from lowbit_compiler.recipes.training import NAMES
from lowbit_compiler.runtime.training.plan import PRODUCTS

RECIPE = "int8-training"
CLOSE = 0.05
"""Relative error of a gradient with int8 operands: 1/127 of the largest of a row, a few times, over rows of normal numbers."""


def test_linears_become_ops_and_the_report_has_three_rows_of_each() -> None:
    model = Model()
    run = compiled(model, RECIPE)
    got, (report,) = reports_of(lambda: gradients(model, run))
    assert 0 < far(got, gradients(model, model)) < CLOSE
    assert [site.op for site in report.rewritten] == LINEARS * [f"linear {product}" for product in PRODUCTS]
    assert {site.module for site in report.rewritten} == {f"blocks.{i}.{name}" for i in range(2) for name in ("up", "down")}
    assert all(site.detail and site.lowered_to and site.kernel for site in report.rewritten)
    (head,) = report.declined
    assert (head.module, head.reason) == ("head", "output head kept by the recipe")
    assert report.recipe == RECIPE
    assert not report.fallback
    explained = lowbit.explain(model, text(), recipe=RECIPE)
    assert [(site.module, site.op, site.detail) for site in explained.sites] == [
        (site.module, site.op, site.detail) for site in report.sites
    ]


@pytest.mark.parametrize("recipe", [name.replace("E, M", "4, 3").replace("(S)", "(10)") for name in NAMES])
def test_every_recipe_learns(recipe: str) -> None:
    model = Model()
    run = compiled(model, recipe)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-2)
    losses = train(model, run, text(), 5, optimizer)
    assert losses[-1] < 0.8 * losses[0]


def test_same_seed_same_bits() -> None:
    model = Model()
    run = compiled(model, RECIPE)
    first = gradients(model, run)
    assert equal(gradients(model, run), first)
    other = gradients(model, run, seed=6)
    assert not equal(other, first)
    with torch.random.fork_rng():
        gradients(model, run, seed=7)
    assert equal(gradients(model, run), first)


def test_ranks_that_are_seeded_alike_draw_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    run = compiled(model, RECIPE)
    found = [gradients(model, run)]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for rank in (0, 1, 2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        found.append(gradients(model, run))
    alone, *ranks = found
    assert [equal(each, alone) for each in ranks] == [True, False, False]
    assert not equal(*ranks[1:])


@pytest.mark.parametrize("remainder", ["eager", "inductor"])
def test_activation_checkpointing_computes_the_same_bits_again(remainder: str) -> None:
    model = Model(checkpointed=True)
    run = compiled(model, RECIPE, remainder=remainder)
    got = gradients(model, run)
    if remainder == "eager":
        assert ops_called(lambda: gradients(model, run))["train_linear"] > LINEARS
    model.checkpointed = False
    torch.compiler.reset()
    want = gradients(model, compiled(model, RECIPE))
    if remainder == "eager":
        assert equal(got, want)
    assert far(got, want) < 1e-4


def test_checkpoint_around_a_compiled_block() -> None:
    block, x = Model().blocks[0], torch.randn(4, 32, requires_grad=True)
    run = compiled(block, RECIPE)
    found = []
    for around in (lambda x: run(x), lambda x: torch.utils.checkpoint.checkpoint(run, x, use_reentrant=False)):
        torch.manual_seed(3)
        block.zero_grad()
        around(x).square().sum().backward()
        found.append({name: parameter.grad for name, parameter in block.named_parameters()})
    assert equal(*found)


def test_dropout_draws_as_ever_beside_the_seed() -> None:
    model = Model(checkpointed=True, drop=0.5)
    run = compiled(model, RECIPE)
    assert equal(gradients(model, run), gradients(model, run))


def test_dynamic_shapes() -> None:
    model = Model()
    run = compiled(model, RECIPE, dynamic=True)
    for size in ((2, 9), (3, 5), (5, 16)):
        words = text(*size)
        assert far(gradients(model, run, words), gradients(model, model, words)) < CLOSE
    _, reports = reports_of(lambda: gradients(model, run, text(4, 7)))
    assert not reports


@pytest.mark.parametrize("inside", [False, True])
def test_autocast(inside: bool) -> None:
    model = Model()

    def cast(words: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(words)

    want = gradients(model, cast)
    run = compiled(cast if inside else model, RECIPE)

    def around(words: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=not inside):
            y = run(words)
        assert y.dtype is torch.bfloat16
        return y

    got = gradients(model, around)
    assert {gradient.dtype for gradient in got.values()} == {torch.float32}
    assert far(got, want) < CLOSE + 0.05  # bfloat16's own


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision(dtype: torch.dtype) -> None:
    model = Model().to(dtype)
    got = gradients(model, compiled(model, RECIPE))
    assert {gradient.dtype for gradient in got.values()} == {dtype}
    assert far(got, gradients(model, model)) < CLOSE + 0.05


def test_gradient_accumulation_draws_anew() -> None:
    model = Model()
    run = compiled(model, "int4-training")
    torch.manual_seed(0)
    parts = []
    for _ in range(2):
        model.zero_grad()
        loss_of(run, text()).backward()
        parts.append(model.blocks[0].up.weight.grad.clone())
    torch.manual_seed(0)
    model.zero_grad()
    for _ in range(2):
        loss_of(run, text()).backward()
    assert torch.equal(model.blocks[0].up.weight.grad, parts[0] + parts[1])
    assert not torch.equal(*parts)


def test_tied_linears_add_their_gradients() -> None:
    model = Model()
    model.blocks[1].up.weight = model.blocks[0].up.weight
    assert far(gradients(model, compiled(model, RECIPE)), gradients(model, model)) < CLOSE


def test_frozen_weights_cost_no_dw() -> None:
    model = Model()
    model.blocks[0].up.weight.requires_grad_(False)
    run = compiled(model, RECIPE)
    got, (report,) = reports_of(lambda: gradients(model, run))
    assert far(got, gradients(model, model)) < CLOSE
    assert ops_called(lambda: gradients(model, run)) == {
        "train_linear": 4,
        "train_grad_input": 4,
        "train_grad_weight": 3,
        "train_quantize": 4 + 4 + 4,  # activations, weights, and weights again for dX
        "train_multiply": 4,
        "train_fold": 7,
    }
    row = next(site for site in report.sites if site.module == "blocks.0.up" and site.op == "linear dW")
    assert (row.decision, row.detail) == ("declined", "the weight needs no gradient")


class Adapted(nn.Module):
    """LoRA: a frozen linear, and a product of two thin ones that learn."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down, self.up = nn.Linear(base.in_features, 4, bias=False), nn.Linear(4, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def test_adapters_stay_float_on_a_frozen_base() -> None:
    model = Model().requires_grad_(False)
    for block in model.blocks:
        block.up, block.down = Adapted(block.up), Adapted(block.down)
    run = compiled(model, RECIPE)
    got, (report,) = reports_of(lambda: gradients(model, run))
    assert got.keys() == {f"blocks.{i}.{at}.{part}.weight" for i in range(2) for at in ("up", "down") for part in ("down", "up")}
    assert far(got, gradients(model, model)) < CLOSE
    assert {site.module.rpartition(".")[2] for site in report.rewritten} == {"base"}
    assert "train_grad_weight" not in ops_called(lambda: gradients(model, run))


@pytest.mark.parametrize("kind", ["foreach", "fused"])
def test_optimizers_and_evaluation_in_between(kind: str) -> None:
    """Evaluation has the inference recipe, whose packed weights follow every step, also of optimizers that raise no version."""
    model = Model()
    run = compiled(model, RECIPE)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, **{kind: True})
    for _ in range(3):
        loss_of(run, text()).backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            assert cosine(run(text()), model(text())) > 0.999
        assert lowbit.last_report().recipe == "int8"


@pytest.mark.parametrize("recipe", ["int4-training", "ternary-training"])
def test_evaluation_by_the_forward_product_itself(recipe: str) -> None:
    model = Model()
    run = compiled(model, recipe)
    trained = run(text()).detach()
    with torch.no_grad():
        assert torch.equal(run(text()), trained)
    assert lowbit.last_report().recipe == recipe


def test_grad_scaler() -> None:
    model = Model()
    run = compiled(model, RECIPE)
    scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=2.0**10), torch.optim.SGD(model.parameters(), 0.1)
    want = gradients(model, run)
    before = model.blocks[0].up.weight.detach().clone()
    optimizer.zero_grad()
    torch.manual_seed(5)
    scaler.scale(loss_of(run, text())).backward()
    scaler.step(optimizer)
    scaler.update()
    torch.testing.assert_close(model.blocks[0].up.weight, before - 0.1 * want["blocks.0.up.weight"])
    optimizer.zero_grad()
    scaler.scale(loss_of(run, text()) * torch.inf).backward()
    after = model.blocks[0].up.weight.detach().clone()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(model.blocks[0].up.weight, after)
    assert scaler.get_scale() == 2.0**9


def test_ignore_and_bad_names() -> None:
    model = Model()
    _, (report,) = reports_of(lambda: gradients(model, compiled(model, RECIPE, ignore=["blocks.0"])))
    assert {site.module for site in report.rewritten} == {"blocks.1.up", "blocks.1.down"}
    with pytest.raises(Exception, match="OptionError: ignore 'nothing' matches no module"):
        gradients(model, compiled(model, RECIPE, ignore=["nothing"]))
    for option in ({"free_weights": True}, {"weights": "frozen"}):
        with pytest.raises(Exception, match=r"OptionError: option .* trains, and its weights change"):
            gradients(model, compiled(model, RECIPE, **option))
    with pytest.raises(Exception, match="float-training"):
        gradients(model, compiled(model, "float-training(9, 9)"))


def test_recipes_for_inference_name_those_that_train(caplog: pytest.LogCaptureFixture) -> None:
    model = Model()
    with caplog.at_level(logging.WARNING, "lowbit_compiler"):
        got, (report,) = reports_of(lambda: gradients(model, compiled(model, "int8")))
    assert equal(got, gradients(model, model))
    assert RECIPE in caplog.text
    assert all(RECIPE in site.detail for site in report.sites if site.reason == report.fallback)
