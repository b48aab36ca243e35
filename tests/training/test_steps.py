"""Step sizes that a model learns: where they begin, their gradients, and how they are kept and trained."""

import copy

import pytest
import torch
from torch import Tensor, nn

import lowbit_compiler as lowbit
from helpers.compiled import compiled, cosine, linears, reports_of
from helpers.training import Model, equal, gradients, loss_of, ops_called, text, train
from lowbit_compiler.errors import OptionError
from lowbit_compiler.runtime.steps import SteppedLinear
from lowbit_compiler.runtime.training.plans import plan_of
from lowbit_compiler.runtime.treatments.treatment import at_once

NAMES = SteppedLinear.NAMES
RECIPE = "int4-training-paper"
TREATMENT = plan_of(RECIPE).forward.treatment
M, N, K, TOP, DRAWS = 37, 45, 70, 7, 200


def rotated(x: Tensor) -> Tensor:
    return TREATMENT.activation(at_once, x)[0].double()


def quantized(x: Tensor, step: Tensor) -> Tensor:
    """LSQ's quantizer in float64, with the gradients of arXiv 1902.08153."""
    ratio = x / step
    inside = ratio.abs() <= TOP
    scale = 1 / (TOP * len(x) * K) ** 0.5
    slow = (step * scale) + (step - step * scale).detach()
    codes = torch.where(inside, ratio + (ratio.round() - ratio).detach(), (TOP * ratio.sign()).detach())
    of_step = torch.where(inside, (ratio.round() - ratio).detach(), codes.detach()) * slow
    of_x = torch.where(inside, x, x.detach())
    return of_x + of_step + (step * codes - of_x - of_step).detach()


def test_gradients_are_those_of_lsq() -> None:
    torch.manual_seed(0)
    x, w, dy = torch.randn(M, K) + 0.3, torch.randn(N, K) / 8, torch.randn(M, N)
    steps = [torch.tensor([0.4]), torch.tensor([-0.05])]  # of a negative one the magnitude counts
    leaves = [x, w, *steps]
    exact = [leaf.double().requires_grad_() for leaf in leaves]
    y = quantized(rotated(exact[0]), exact[2].abs()) @ quantized(rotated(exact[1]), exact[3].abs()).t()
    (y * dy).sum().backward()
    draws = []
    for seed in range(DRAWS):
        given = [leaf.clone().requires_grad_() for leaf in leaves]
        got = torch.ops.lowbit.train_linear(*given[:2], None, torch.tensor([seed]), 0, RECIPE, None, *given[2:])[0]
        got.backward(dy)
        draws.append([leaf.grad.double() for leaf in given])
    assert (got - y).abs().max() < 1e-5 * y.abs().max()
    for leaf, *found in zip(exact, *draws, strict=True):
        each = torch.stack(found)
        # what rounding adds is kept in 1 / 254 of a step: rounded to nearest, an error of 1 / 508 that does not average out
        allowed = leaf.grad.norm() / 100 if leaf.numel() == 1 else 2.0**-14 * leaf.grad.norm()
        error = ((each.mean(0) - leaf.grad).abs() - allowed).clamp(min=0)
        assert (error / (each.std(0) / DRAWS**0.5).clamp(min=1e-30)).max() < 5


def prepared(model: nn.Module, recipe: str = RECIPE) -> nn.Module:
    return lowbit.prepare_training(model, recipe, [text()])


def test_steps_begin_at_the_statistic() -> None:
    model = Model()
    block, seen = model.blocks[0], []
    block.up.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    assert prepared(model) is model
    want = [2 * rotated(x).abs().mean() / TOP**0.5 for x in (seen[0].detach().reshape(-1, 32), block.up.weight.detach())]
    got = [getattr(block.up, name) for name in NAMES]
    torch.testing.assert_close(torch.cat(got).detach().double(), torch.stack(want), rtol=1e-6, atol=0)
    names = [name for name, _ in model.named_parameters() if name.endswith("_step")]
    assert names == [f"blocks.{i}.{part}.{name}" for i in range(2) for part in ("up", "down") for name in NAMES]  # the head is an embedding
    assert set(names) <= set(model.state_dict())


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.up = nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(input=self.drop(self.norm(x)))


def test_calibration_leaves_the_model_as_it_is() -> None:
    """And takes linears whose input has its name."""
    model, data = Normed(), [torch.randn(8, 32) + 1]
    model.norm.eval()
    want, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    lowbit.prepare_training(model, RECIPE, data)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(model.state_dict()[name], each) for name, each in want.items())
    first = model.up.lowbit_x_step.item()
    model.norm.train()
    lowbit.prepare_training(model, RECIPE, data)  # neither dropout nor the statistics of the batch
    assert all(torch.equal(model.state_dict()[name], each) for name, each in want.items())
    assert model.up.lowbit_x_step.item() == first


@pytest.mark.parametrize(("remainder", "checkpointed"), [("eager", True), pytest.param("inductor", False, marks=pytest.mark.model)])
def test_a_model_learns_its_steps(remainder: str, checkpointed: bool) -> None:
    torch.manual_seed(0)
    model = Model(checkpointed=checkpointed)
    run = compiled(prepared(model), RECIPE, remainder=remainder)
    got, (report,) = reports_of(lambda: gradients(model, run))
    assert report.notes == ["step sizes of 4 linears (lowbit.prepare_training) are learned"]
    steps = {name: gradient for name, gradient in got.items() if name.endswith("_step")}
    assert len(steps) == 8
    assert all(gradient.shape == (1,) and gradient != 0 for gradient in steps.values())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    before = copy.deepcopy(model.state_dict())
    losses = train(model, run, text(), 5, optimizer)
    assert losses[-1] < 0.8 * losses[0]
    assert all(model.state_dict()[name] != before[name] for name in steps)
    with torch.no_grad():
        trained = run(text())
        fresh = prepared(Model(checkpointed=checkpointed))
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(compiled(fresh, RECIPE, remainder=remainder)(text()), trained)


def test_other_recipes_say_that_they_learn_none() -> None:
    model = Model()
    run = compiled(model, "int8-training")
    want = gradients(model, run)
    prepared(model)
    got, (report,) = reports_of(lambda: gradients(model, run))
    assert report.notes == ["step sizes of 4 linears (lowbit.prepare_training) are not used: int8-training learns none"]
    assert equal({name: got[name] for name in want}, want)


@pytest.mark.parametrize("recipe", [None, "int8-training", RECIPE])
def test_gradients_of_steps_that_nothing_uses_are_zeros(recipe: str | None) -> None:
    """DistributedDataParallel waits for a gradient of each parameter; of NaN elsewhere they get none."""
    model = prepared(Model())
    run = model if recipe is None else compiled(model, recipe, **({"ignore": ["blocks"]} if recipe == RECIPE else {}))
    (loss_of(run, text()) * torch.nan).backward()
    gradients = [parameter.grad for name, parameter in model.named_parameters() if name.endswith("_step")]
    assert len(gradients) == 8
    assert all(torch.equal(gradient, torch.zeros(1)) for gradient in gradients)


@pytest.mark.parametrize(("frozen", "kept"), [(["weight"], 8), (["weight", "lowbit_w_step"], 7)])
def test_frozen_weights_cost_dw_where_their_step_learns(frozen: list[str], kept: int) -> None:
    model = prepared(Model())
    for name in frozen:
        model.blocks[0].up.get_parameter(name).requires_grad_(False)
    run = compiled(model, RECIPE)
    _, (report,) = reports_of(lambda: gradients(model, run))
    assert ops_called(lambda: gradients(model, run))["train_grad_stepped"] == kept
    assert len([site for site in report.rewritten if site.op != "linear forward"]) == kept


def test_models_with_steps_and_without_have_graphs_of_their_own() -> None:
    """Dynamo keeps the graphs of one class together."""
    torch.manual_seed(0)
    models = [prepared(Model()), Model(), prepared(Model())]
    runs = [compiled(model, RECIPE) for model in models]
    for _ in range(2):
        for model, run in zip(models, runs, strict=True):
            got = gradients(model, run)
            assert sum(name.endswith("_step") for name in got) == (0 if model is models[1] else 8)
    assert models[0].blocks[0].up.lowbit_x_step.grad != models[2].blocks[0].up.lowbit_x_step.grad


def test_other_graphs_compute_linears() -> None:
    model = prepared(Model())
    with torch.no_grad():
        want = model(text())
        got, (report,) = reports_of(lambda: compiled(model, "int8")(text()))
    assert [site.module for site in linears(report)] == [*(f"blocks.{i}.{part}" for i in range(2) for part in ("up", "down")), "head"]
    assert cosine(got, want) > 0.999


def test_a_layer_of_zeros_learns(caplog: pytest.LogCaptureFixture) -> None:
    """A step that begins at 0 would keep both gradients at 0 from the second step on."""
    torch.manual_seed(0)
    model = Model()
    nn.init.zeros_(model.blocks[0].down.weight)
    prepared(model)
    assert [name for name, module in model.named_modules() if isinstance(module, SteppedLinear)] == [
        "blocks.0.up",
        "blocks.1.up",
        "blocks.1.down",
    ]
    assert "activations of blocks.0.down are zeros" in caplog.text
    train(model, compiled(model, RECIPE), text(), steps=2)
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("step", [0.0, -(2.0**-125)])
def test_without_a_step_the_statistic_counts(step: float) -> None:
    torch.manual_seed(0)
    x, w, dy, seed = torch.randn(M, K), torch.randn(N, K) / 8, torch.randn(M, N), torch.tensor([3])
    found = []
    for steps in ([], [torch.tensor([step], requires_grad=True) for _ in range(2)]):
        leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]
        y = torch.ops.lowbit.train_linear(*leaves, None, seed, 0, RECIPE, None, *steps)[0]
        y.backward(dy)
        found.append([y.detach(), *(leaf.grad for leaf in leaves)])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
    assert [each.grad.item() for each in steps] == [0.0, 0.0]


def test_bad_arguments() -> None:
    with pytest.raises(OptionError, match=f"can be learned: {RECIPE}; got 'int8-training'"):
        prepared(Model(), "int8-training")
    with pytest.raises(OptionError, match=r"reaches no nn\.Linear of Embedding"):
        prepared(nn.Embedding(64, 32))
    with pytest.raises(OptionError, match=r"takes a torch\.nn\.Module, got str"):
        lowbit.prepare_training("model", RECIPE, [text()])
    x, w, seed, step = torch.ones(2, 32), torch.ones(16, 32), torch.tensor([0]), torch.ones(1)
    with pytest.raises(RuntimeError, match="both of x_step and w_step or none"):
        torch.ops.lowbit.train_linear(x, w, None, seed, 0, RECIPE, None, step)
    with pytest.raises(RuntimeError, match=r"w_step in .* of shape"):
        torch.ops.lowbit.train_linear(x, w, None, seed, 0, "int8-training", None, step, torch.ones(2))
