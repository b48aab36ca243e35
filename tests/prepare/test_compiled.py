"""What compiled models and exports make of prepared tensors."""

import copy
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lowbit_compiler as lowbit
from helpers.compiled import compiled, reports_of
from helpers.prepared import FEATURES, INT4, equal, inputs, parts_of, stack
from lowbit_compiler.compile.prepared import CHANGED
from lowbit_compiler.recipes import Recipe
from lowbit_compiler.report import Report
from lowbit_compiler.runtime.weights import STORE

RECIPES = {
    "float activations": INT4,
    "rotated": replace(INT4, name="rotated", treatment="rotation"),
    "nested, int8 activations": Recipe("w4a8", weights="int4-nested", activations="int8", group_size=32, treatment="rotation"),
    "int8": Recipe("w8a8", weights="int8", activations="int8", treatment="rotation"),
    "several widths": replace(INT4, name="widths", sites=(("up", "int5"), ("re:blocks\\.[01]\\.gate", "int3"), ("last", "int6"))),
    "symmetric": Recipe("sym", weights="int4-symmetric", activations="float", group_size=32),
}


@pytest.fixture(scope="module")
def float_model() -> nn.Module:
    torch.manual_seed(0)
    return stack()


@pytest.fixture(scope="module")
def model(float_model: nn.Module) -> nn.Module:
    return lowbit.prepare(copy.deepcopy(float_model), INT4, inputs())


def run(model: nn.Module, recipe: Any = INT4, **options: Any) -> tuple[Tensor, Report]:
    torch.compiler.reset()
    x = inputs(6)[5]
    with torch.no_grad():
        got, (report,) = reports_of(lambda: compiled(model, recipe, **options)(x))
    return got, report


def dequantized(model: nn.Module, recipe: Recipe) -> nn.Module:
    """A copy whose linears multiply with what the parts stand for."""
    plain = copy.deepcopy(model)
    for name, prepared in parts_of(model).items():
        layer, parts, plan = plain.get_submodule(name), prepared.parts, replace(recipe.plan, w=prepared.operand)
        layer.forward = lambda x, layer=layer, parts=parts, plan=plan: plan.emulate(x, parts, layer.bias)  # type: ignore[method-assign, misc]
    return plain


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_values_are_those_of_the_parts(float_model: nn.Module, recipe: Recipe, dtype: torch.dtype) -> None:
    """Of merged siblings too, whose parts are joined along N."""
    model = copy.deepcopy(float_model).to(dtype)
    x = inputs(6)[5].to(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert lowbit.prepare(model, recipe, [each.to(dtype) for each in inputs()]) is model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(parts_of(model)) == 11
    torch.compiler.reset()
    with torch.no_grad():
        got, (report,) = reports_of(lambda: compiled(model, recipe)(x))
        want, other = dequantized(model, recipe)(x), compiled(copy.deepcopy(float_model).to(dtype), recipe)(x)
    assert "11 weights as lowbit.prepare made them (gptq)" in report.notes
    close = (got - want).float().norm() / want.float().norm()
    assert close < (1e-5 if dtype is torch.float32 and recipe.plan.x is None else 2e-2)
    if dtype is torch.float32:  # in bfloat16 roundings between the layers are as large as what int8 loses
        assert close < 0.2 * (other - want).norm() / want.norm()


def test_nearer_to_float_than_without(float_model: nn.Module, model: nn.Module) -> None:
    with torch.no_grad():
        want = float_model(inputs(6)[5])
    prepared, plain = run(model)[0], run(float_model)[0]
    assert (prepared - want).norm() < 0.6 * (plain - want).norm()


def test_without_data_it_is_what_compiling_makes(float_model: nn.Module) -> None:
    rounded = lowbit.prepare(copy.deepcopy(float_model), INT4)
    assert torch.equal(run(rounded)[0], run(float_model)[0])


@pytest.mark.parametrize("recipe", [replace(INT4, group_size=64), replace(INT4, weights="int5"), "int8", RECIPES["rotated"]], ids=str)
def test_another_recipe_ignores_them_and_says_so(float_model: nn.Module, model: nn.Module, recipe: Any) -> None:
    got, report = run(model, recipe)
    (note,) = [note for note in report.notes if "prepared" in note]
    assert "are ignored: they are " in note
    assert torch.equal(got, run(float_model, recipe)[0])


def test_a_changed_weight_is_quantized_anew(model: nn.Module) -> None:
    changed = copy.deepcopy(model)
    run_changed = compiled(changed, INT4)
    x = inputs(6)[5]
    with torch.no_grad():
        torch.compiler.reset()
        before = run_changed(x)
        changed.get_submodule("blocks.1.up").weight[3, 5] += 1.0  # beside up in one product: gate, which is as it was
        got = run_changed(x)
        assert not torch.equal(got, before)
        stated, report = run(changed)
    assert torch.equal(got, stated)
    assert f"prepared tensors of 1 products are ignored: {CHANGED}" in report.notes
    assert "10 weights as lowbit.prepare made them (gptq)" in report.notes
    vars(changed.get_submodule("blocks.1.up")).pop("_lowbit_prepared")
    assert torch.equal(run(changed)[0], got)


def test_a_copy_made_before_has_none(float_model: nn.Module, model: nn.Module) -> None:
    """Weights are told apart by where they are, not by their values: the copy is another model."""
    assert not parts_of(float_model)
    assert not [note for note in run(float_model)[1].notes if "prepare" in note]
    assert not torch.equal(run(float_model)[0], run(model)[0])


def saved(model: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, saved, lambda model: copy.deepcopy(model).to("cpu")], ids=["deepcopy", "pickle", "to"])
def test_copies_carry_them(model: nn.Module, copied: Callable[[nn.Module], nn.Module]) -> None:
    other = copied(model)
    assert equal(model, other)
    assert not any("lowbit" in name for name in other.state_dict())
    before = run(model)[0]
    assert torch.equal(run(other)[0], before)
    with torch.no_grad():
        other.get_submodule("first").weight.mul_(2)
    assert torch.equal(run(model)[0], before)


def test_prepared_again_is_compiled_anew(float_model: nn.Module, model: nn.Module) -> None:
    """Values of weights are remembered by what made them, too."""
    both = copy.deepcopy(float_model)
    plain = run(both)[0]
    lowbit.prepare(both, INT4, inputs())
    assert torch.equal(run(both)[0], run(model)[0])
    lowbit.prepare(both, INT4)
    assert torch.equal(run(both)[0], plain)


def test_float_weights_may_go(model: nn.Module) -> None:
    freed = copy.deepcopy(model)
    x = inputs(6)[5]
    torch.compiler.reset()
    with torch.no_grad():
        low = compiled(freed, INT4, free_weights=True)
        first = low(x)
        assert freed.get_submodule("first").weight.untyped_storage().nbytes() == 0
        assert torch.equal(low(x), first)
    assert torch.equal(first, run(model)[0])


def test_nothing_stays_behind(float_model: nn.Module) -> None:
    from lowbit_compiler.runtime.prepared import known

    mine, bytes_before = copy.deepcopy(float_model), STORE.nbytes()
    lowbit.prepare(mine, INT4)
    weights = {id(prepared) for prepared in parts_of(mine).values()}
    assert len(weights & {id(each) for each in known().values()}) == 11
    del mine
    assert not weights & {id(each) for each in known().values()}
    assert STORE.nbytes() == bytes_before


def test_the_sum_of_a_file_is_that_of_the_model(tmp_path: Any, model: nn.Module) -> None:
    pytest.importorskip("onnxscript")
    from helpers.onnx_files import Exported

    x = torch.randn(3, 2, FEATURES)
    for recipe, form in ((INT4, "integer"), (INT4, "qdq")):
        folder = tmp_path / form
        folder.mkdir()
        exported = Exported(folder, model, x, recipe=recipe, form=form)
        assert "11 weights as lowbit.prepare made them (gptq)" in exported.report.notes
        (got,) = exported.run(x)
        with torch.no_grad():
            want = dequantized(model, INT4)(x)
        assert (got - want).norm() < 1e-4 * want.norm()
