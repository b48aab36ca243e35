"""The one reader of weights that are low-bit already: ``dequantize_*`` of parts that are parameters, or are computed from parameters.

Checkpoints hold them so (lowbit_compiler/checkpoints). Such a weight is adopted: its parts are taken as they are, and nothing is quantized again, which
would move codes wherever a row or group does not reach its largest one.
"""

from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from torch import fx

from lowbit_compiler.passes.graph import aten, calls, emit, is_constant, value
from lowbit_compiler.passes.product import DEQUANTIZE, TREAT
from lowbit_compiler.runtime.formats import KINDS, Operand
from lowbit_compiler.runtime.formats.operand import argument_names, op_name
from lowbit_compiler.runtime.treatments import TREATMENTS, Treatment

OPERANDS = {f"lowbit::{op_name('dequantize', *kind)}": kind for kind in KINDS}
AROUND = (aten.to.dtype, aten.slice.Tensor)
"""What may stand between a product and the weight: a cast, and the end of padding after an inverse treatment."""


@dataclass(frozen=True)
class Stored:
    """A weight [N, K] in its parts: what it is in, after which treatment."""

    operand: Operand
    treatment: Treatment
    parts: tuple[fx.Node, ...]


def stored(weight: fx.Node, parameters: Container[str]) -> Stored | None:
    """Return what ``weight`` [N, K] of a product is, where it is low-bit already."""
    node: Any = weight
    undone: list[Any] = []
    while calls(node, *AROUND, *TREAT):
        if calls(node, *TREAT):
            undone.append(node.target)
        node = node.args[0]
    if not calls(node, *DEQUANTIZE) or not is_constant(node, parameters):
        return None
    treatment = next((each() for each in TREATMENTS.values() if each().weight_ops == tuple(undone)), None)
    format, scale = OPERANDS[node.target.name()]
    names = [*argument_names(format.schema), *argument_names(scale.schema)]
    parts, arguments = _split(node)
    operand = Operand.of(format, scale, dict(zip(names, arguments, strict=True)))
    whole = value(weight).dim() == 2 and len(parts) == len(operand.parts)
    return None if treatment is None or not whole else Stored(operand, treatment, parts)


def _split(node: fx.Node) -> tuple[tuple[fx.Node, ...], list[Any]]:
    """Return the tensors and the other arguments of a dequantization, without its dtype."""
    given: list[Any] = list(node.args[:-1]) if "dtype" not in node.kwargs else list(node.args)
    return tuple(each for each in given if isinstance(each, fx.Node)), [each for each in given if not isinstance(each, fx.Node)]


def adopted(
    gm: fx.GraphModule, weight: fx.Node, operand: Operand, treatment: Treatment, parameters: Container[str]
) -> list[fx.Node] | None:
    """Emit the parts of the treated ``weight`` of a product, which may join several along N; None where it is not in ``operand`` already.

    Before: ``rotate(to(cat([to(slice(rotate(dequantize_s8(%q, %scale))))])))``. After: ``cat([%q])``, ``cat([%scale])``.
    """
    node: Any = weight
    for op in reversed(treatment.weight_ops):
        if not calls(node, op):
            return None
        node = node.args[0]
    while calls(node, aten.to.dtype):
        node = node.args[0]
    each = list(node.args[0]) if calls(node, aten.cat.default) and node.args[1:] in ((), (0,)) else [node]
    found = [stored(one, parameters) for one in each]
    if any(one is None or one.operand != operand or one.treatment.weight_ops != treatment.weight_ops for one in found):
        return None
    columns = zip(*(one.parts for one in found if one is not None), strict=True)
    return [emit(gm, aten.cat.default, list(part)) if len(part) > 1 else emit(gm, aten.alias.default, part[0]) for part in columns]
