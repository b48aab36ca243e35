"""Which linears of a model are stored in low bits, and what in: those that compiling it with the recipe would quantize, and only those.

A linear that is left out stays float in the file, and is quantized when the loaded model is compiled, as it was in the original. So whatever
is not plain is left out: weights that several modules have, subclasses of ``nn.Linear``, heads that the recipe keeps in float.
"""

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lowbit_compiler.checkpoints.linear import StoredLinear
from lowbit_compiler.checkpoints.scheme import Scheme
from lowbit_compiler.errors import OptionError
from lowbit_compiler.passes.plan import first_match, plan_of
from lowbit_compiler.preparing.chain import block_lists
from lowbit_compiler.preparing.layer import Layer, is_head, layers
from lowbit_compiler.recipes import Recipe, pattern_error
from lowbit_compiler.runtime.prepared import attached
from lowbit_compiler.runtime.widths import Width


@dataclass(frozen=True)
class Chosen:
    """A linear under all its names, what its weight is stored in, and its parts where ``lowbit.prepare`` has made some."""

    names: tuple[str, ...]
    linear: nn.Linear
    scheme: Scheme
    parts: tuple[Tensor, ...] | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the weight."""
        if self.parts is not None:
            return self.scheme.store(self.parts)
        weight = self.linear.weight
        n, k = weight.shape
        return self.scheme.quantize(n, k, lambda start, stop: weight[start:stop])


def choose(model: nn.Module, recipe: Recipe, ignore: Sequence[str] = (), tied: Container[str] = ()) -> list[Chosen]:
    """Return the linears of ``model`` to store as ``recipe`` says; ``ignore`` are patterns as the backend takes them.

    ``tied`` are parameters that will be those of other modules too.

    Raises OptionError for a pattern that is none, or names no linear.
    """
    found = layers(model, recipe)
    modules = _names(model)
    check_patterns(ignore, [name for layer in found for name in modules[layer.module]])
    inside = {
        module for blocks in block_lists(model, (layer.module for layer in found)) for _, block in blocks for module in block.modules()
    }
    count = owners(model)
    prepared = {one.module: one for _, one in attached(model)}
    chosen = []
    for layer in found:
        linear, names = layer.module, modules[layer.module]
        plan = layer.plan
        if is_head(layer) and linear not in inside and _own_word(recipe, layer) is None:
            if recipe.head_plan is None:
                continue
            plan = recipe.head_plan
        too_long = plan.product is not None and plan.product.largest_k is not None and linear.in_features > plan.product.largest_k
        several = count[id(linear.weight)] > 1 or any(f"{name}.weight" in tied for name in names)
        if type(linear) is not nn.Linear or too_long or several or first_match(ignore, [*names, *(f"{name}.weight" for name in names)]):
            continue
        width = vars(linear).get(Width.attribute) if plan.w.format.widths else None
        one = prepared.get(linear)
        made = (
            one is not None and (one.operand, one.treatment.weight_ops) == (plan.w, plan.treatment.weight_ops) and one.is_of(linear.weight)
        )
        scheme = Scheme(plan.w, plan.treatment, None if width is None else width.bits)
        chosen.append(Chosen(tuple(names), linear, scheme, one.parts if made and one is not None else None))
    return chosen


def owners(model: nn.Module) -> Counter[int]:
    """Return how many modules have each parameter, by its id."""
    return Counter(id(tensor) for module in model.modules() for tensor in module._parameters.values() if tensor is not None)


def stored(model: nn.Module) -> dict[str, Scheme]:
    """Return the linears of ``model`` that are low-bit already, under all their names, with the width that is in force."""
    found = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, StoredLinear):
            width = vars(module).get(Width.attribute) if module.scheme.operand.format.widths else None
            found[name] = Scheme(module.scheme.operand, module.scheme.treatment, None if width is None else width.bits)
    return found


def _own_word(recipe: Recipe, layer: Layer) -> object:
    return plan_of(recipe, (layer.name, f"{layer.name}.weight"))


def _names(model: nn.Module) -> dict[nn.Module, list[str]]:
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return names


def check_patterns(ignore: Sequence[str], names: Sequence[str]) -> None:
    """Raise OptionError for a pattern that is none, or that none of the linears ``names`` matches."""
    for pattern in ignore:
        if error := pattern_error(pattern):
            raise OptionError(f"ignore: {pattern!r} is not a valid regular expression: {error}")
        if first_match([pattern], [*names, *(f"{name}.weight" for name in names)]) is None:
            raise OptionError(f"ignore {pattern!r} matches none of the model's {len(names)} linears that the recipe quantizes")
