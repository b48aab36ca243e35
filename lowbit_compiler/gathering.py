"""``lowbit.gather_packed``: weights of a model that FSDP2 will gather in low bits."""

from collections.abc import Sequence

from torch import nn

from lowbit_compiler.checkpoints.choice import Chosen, choose
from lowbit_compiler.errors import OptionError, WeightFreedError
from lowbit_compiler.recipes import Recipe, find_recipe
from lowbit_compiler.runtime.forms import Packed
from lowbit_compiler.runtime.sharded import ShardedWeight
from lowbit_compiler.runtime.weights import any_freed
from lowbit_compiler.torch_internals.dtensor import first_sharded


def gather_packed(model: nn.Module, recipe: str | Recipe = "int8", *, ignore: Sequence[str] = (), free_weights: bool = False) -> nn.Module:
    """Let FSDP2 gather the linear weights of ``model`` as ``recipe`` packs them; call it before ``fully_shard``. Returns ``model``.

    ``ignore`` are patterns as the backend takes them.
    """
    recipe = find_recipe(recipe)
    for chosen in choose(model, recipe, ignore):
        weight = chosen.linear.weight
        form = Packed(chosen.scheme.operand, chosen.scheme.treatment)
        chosen.linear.weight = nn.Parameter(ShardedWeight(weight.detach(), form, free_weights), requires_grad=weight.requires_grad)
    return model
