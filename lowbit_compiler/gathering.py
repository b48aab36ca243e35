"""``lowbit.gather_packed``: weights of a model that FSDP2 gathers in low bits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lowbit_compiler.checkpoints.choice import Chosen, check_patterns, choose, owners
from lowbit_compiler.errors import OptionError, WeightFreedError
from lowbit_compiler.passes.plan import first_match
from lowbit_compiler.preparing.chain import block_lists
from lowbit_compiler.preparing.layer import layers
from lowbit_compiler.recipes import DEFAULT, Recipe, find_recipe
from lowbit_compiler.recipes.training import TrainingRecipe, find_training
from lowbit_compiler.runtime.formats import PACKED
from lowbit_compiler.runtime.forms import Form, Packed, Saved
from lowbit_compiler.runtime.products import MAX_K
from lowbit_compiler.runtime.sharded import ShardedWeight
from lowbit_compiler.runtime.training.plans import PLANS
from lowbit_compiler.runtime.weights import any_freed
from lowbit_compiler.torch_internals import fsdp
from lowbit_compiler.torch_internals.dtensor import first_sharded, with_local

Forms = Iterator[tuple[nn.Linear, Form]]


def gather_packed(model: nn.Module, recipe: str | Recipe = "int8", *, ignore: Sequence[str] = (), free_weights: bool = False) -> nn.Module:
    """Let FSDP2 gather the linears' weights [N, K] of ``model`` in low bits; called before ``fully_shard``. Returns ``model``.

    Each process quantizes its rows as ``recipe`` says, once and again after a change, and sends codes and scales. They are those of the
    whole weight, and ``torch.compile(model, backend="lowbit", options={"recipe": recipe})`` multiplies them as they come. Weights stay
    float parameters, which optimizers and state dicts know; with ``free_weights`` their memory is released at the first call, and reading
    them raises WeightFreedError. A recipe that trains takes the linears of repeated blocks, others those that they would quantize;
    ``ignore`` are patterns as the backend takes them, of linears to be gathered in float.

    Raises OptionError for bad arguments, recipes whose weights cannot be quantized by rows, and weights that are sharded or prepared
    already, and WeightFreedError for a model without its float weights.
    """
    training = find_training(recipe)
    if not isinstance(model, nn.Module):
        raise OptionError(f"model takes a torch.nn.Module, got {type(model).__name__}")
    whole = any(map(fsdp.gathered, model.modules()))  # FSDP2 may leave a model's own parameters together after a call
    if sharded := first_sharded(model) or ("put together by FSDP2" if whole else ""):
        raise OptionError(f"weights of the model are sharded ({sharded}); gather_packed is called before fully_shard")
    if any_freed([*model.parameters(), *model.buffers()]):
        raise WeightFreedError("free_weights=True released float weights of the model, which are to be sharded; load the model anew")
    if training is not None and free_weights:
        raise OptionError(f"free_weights: recipe {training.name!r} trains, and its weights change; got {free_weights!r}")
    found = list(_packed(model, find_recipe(recipe), ignore) if training is None else _saved(model, training, ignore))
    if not found:
        where = "" if training is None else " in repeated blocks"
        raise OptionError(f"{type(model).__name__} has no nn.Linear{where} that recipe {recipe!r} takes")
    for linear, form in found:
        weight = linear.weight
        linear.weight = nn.Parameter(ShardedWeight(weight.detach(), form, free_weights), requires_grad=weight.requires_grad)
        linear.register_load_state_dict_pre_hook(_Assigned(form, free_weights))
    return model


@dataclass(frozen=True)
class _Assigned:
    """Lets a weight that ``load_state_dict(assign=True)`` puts in the place of ours be gathered as ours: FSDP2 has buffers of codes for it."""

    form: Form
    release: bool

    def __call__(self, linear: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        name = f"{prefix}weight"
        given = state.get(name)
        if isinstance(given, Tensor):
            requires_grad = isinstance(given, nn.Parameter) and given.requires_grad
            state[name] = nn.Parameter(with_local(given.detach(), self._own), requires_grad=requires_grad)

    def _own(self, rows: Tensor) -> Tensor:
        return rows if isinstance(rows, ShardedWeight) else ShardedWeight(rows, self.form, self.release)


def _packed(model: nn.Module, recipe: Recipe, ignore: Sequence[str]) -> Forms:
    for chosen in choose(model, recipe, ignore):
        _check(chosen, recipe)
        yield chosen.linear, Packed(chosen.scheme.operand, chosen.scheme.treatment)


def _check(chosen: Chosen, recipe: Recipe) -> None:
    """Raise OptionError for a weight that cannot be quantized by the rows of each process, or was by other means."""
    name, operand = chosen.names[0], chosen.scheme.operand
    _refuse_twice(name, chosen.linear)
    if chosen.parts is not None:
        raise OptionError(
            f"{name} was prepared by lowbit.prepare, whose codes are of the whole weight; gather_packed takes weights that were not"
        )
    local = operand.kind in PACKED and operand.scale.row_local and operand.packed_rows(0) == 0
    if not local:
        raise OptionError(
            f"recipe {recipe.name!r} has weights in {operand.name} ({name}): gather_packed takes formats with kernels, whose rows are packed alone"
        )


def _saved(model: nn.Module, recipe: TrainingRecipe, ignore: Sequence[str]) -> Forms:
    quantizer = recipe.plan.quantizer
    if quantizer is None:
        able = [name for name, plan in PLANS.items() if plan.quantizer is not None]
        raise OptionError(
            f"recipe {recipe.name!r} does not quantize whole rows alone; of those that train gather_packed takes {', '.join(able)}"
        )
    found = layers(model, find_recipe(DEFAULT))
    check_patterns(ignore, [layer.name for layer in found])
    lists = block_lists(model, (module for module in model.modules() if isinstance(module, nn.Linear)))
    inside = {module for blocks in lists for _, block in blocks for module in block.modules()}
    count = owners(model)
    for layer in found:
        linear = layer.module
        alone = type(linear) is nn.Linear and count[id(linear.weight)] == 1
        short = recipe.plan.forward.treatment.padded(linear.in_features) <= MAX_K  # what is longer is multiplied in float
        if linear in inside and alone and short and not first_match(ignore, [layer.name, f"{layer.name}.weight"]):
            _refuse_twice(layer.name, linear)
            yield linear, Saved(*quantizer[1])


def _refuse_twice(name: str, linear: nn.Linear) -> None:
    if isinstance(linear.weight, ShardedWeight):
        raise OptionError(f"{name} is gathered in low bits already; call gather_packed once")
