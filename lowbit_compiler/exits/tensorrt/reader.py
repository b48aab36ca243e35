"""What TensorRT-RTX takes: types of codes, where they may stand, and from which devices on. Tried with 1.7.1, on files of every recipe."""

from collections.abc import Iterator

import onnx_ir as ir

from lowbit_compiler.errors import OptionError
from lowbit_compiler.exits.onnx.reader import Reader
from lowbit_compiler.recipes import Recipe
from lowbit_compiler.runtime.products import Plan

OPSET = 23
"""From it on there is e2m1, and attention is one operator; in 24 scales may be e8m0, which the parser does not take as constants."""
READER = Reader(
    stored={
        "INT4": ("INT4", 0),
        "UINT4": ("INT4", 8),
        "INT8": ("INT8", 0),
        "UINT8": ("INT8", 128),
        "FLOAT4E2M1": ("FLOAT4E2M1", 0),
        "FLOAT8E4M3FN": ("FLOAT8E4M3FN", 0),
    },
    anywhere=False,  # a constant of few bits that anything but DequantizeLinear reads is an error, and codes are no results of Cast
    parts=False,
    casts={ir.DataType.UINT8: ir.DataType.INT32, ir.DataType.INT8: ir.DataType.INT32},
)
LEAST = {"FLOAT4E2M1": (10, 0)}
"""Type -> the first compute capability whose engines take it."""
Capability = tuple[int, int]


def require_taken(recipe: Recipe, capabilities: tuple[Capability, ...]) -> None:
    """Raise OptionError where an engine for one of ``capabilities`` cannot hold what ``recipe`` makes."""
    for plan in _plans(recipe):
        if reason := refused(plan, min(capabilities)):
            raise OptionError(f"recipe {recipe.name!r} does not go into an engine of TensorRT: {reason}")


def refused(plan: Plan, capability: Capability) -> str:
    """Return why products of ``plan`` do not go into an engine for ``capability``; "" where they do."""
    format = plan.w.format
    name, opset = format.onnx
    if plan.opened and plan.treatment.ragged:
        return f"the treatment {plan.treatment.name!r} gathers outliers by NonZero, which the parser of TensorRT-RTX has no layer for"
    if name not in READER.stored or opset > OPSET:
        return f"codes of {format} are of no type that its DequantizeLinear takes; accepted: {', '.join(sorted(READER.stored))}"
    if (least := LEAST.get(name, (0, 0))) > capability:
        got, wanted = (".".join(map(str, each)) for each in (capability, least))
        return f"codes of {format} are {name}, which devices have from compute capability {wanted} on, got {got}"
    return ""


def _plans(recipe: Recipe) -> Iterator[Plan]:
    yield recipe.plan
    yield from map(recipe.plan_with, recipe.words)
    if recipe.head_plan is not None:
        yield recipe.head_plan
