"""Programs of ``lowbit::chain``: rows that go through several products, sums, activations and norms in one call.

A value is an input or what a step makes, numbered in that order. A step reads columns of one or two values, and its result is rounded to
its dtype, so that a chain gives the bits of the ops that it stands for. A program is a list of numbers, NUMBERS a step.

The call has two results, one for each step that is kept; the second is empty where only one is. (Inductor's C++ takes no lists of results.)
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from enum import IntEnum

import torch
from torch import Tensor

from lowbit_compiler.runtime import before
from lowbit_compiler.runtime.packing import PANEL
from lowbit_compiler.runtime.products import KEYS, PRODUCTS, weight_of
from lowbit_compiler.runtime.reference.prologue import FUNCTIONS, prologue
from lowbit_compiler.runtime.require import FLOAT, FLOATS, require, same, tensors

OP = "chain"
SCHEMA = "chain(Tensor[] rows, Tensor[] constants, int[] program, float[] eps) -> (Tensor, Tensor)"
MOST_STEPS, MOST_KEPT = 256, 2
NONE = -1


class Kind(IntEnum):
    """What a step does: ``prologue(x)`` times a packed weight, ``x + y``, or ``prologue(x)``."""

    PRODUCT = 0
    SUM = 1
    APPLY = 2


LINEARS = (
    "linear_s8s8",
    "linear_s8s8_rotated",
    "linear_s8u4_nested",
    "linear_s8u4_nested_rotated",
    "linear_s8ternary",
    "linear_fs8",
    "linear_fs4",
    "linear_fternary",
    "linear_fternary_grouped",
    "linear_fu3",
    "linear_fu4",
    "linear_fu5",
    "linear_fu6",
    "linear_fu8",
    "linear_fu4_nested",
    "linear_fnf4",
    "linear_fiq4",
    "linear_fz4",
    "linear_fz6",
)
"""The linear ops that a step may be, by their place here; of those with arguments of their own, ``group``."""


@dataclass(frozen=True)
class Step:
    """One step. Constants are numbers of tensors among the constants, or NONE."""

    kind: int
    x: int
    x_first: int
    x_count: int
    """Columns read of value ``x``, from ``x_first`` on."""
    y: int = NONE
    y_first: int = 0
    """The other summand, or what the prologue multiplies by where that is a value: as many columns."""
    function: int = 0
    times: int = NONE
    plus: int = NONE
    weight: int = NONE
    bias: int = NONE
    linear: int = 0
    group: int = 0
    """Of the weight, where it has groups."""
    dtype: int = 0
    """Of the result, in the order of FLOATS."""
    columns: int = 0
    """Of the result."""
    kept: int = 0
    """Whether the result is one of the call's."""
    eps: float = 0.0


_NAMES = [each.name for each in fields(Step)]
NUMBERS = len(_NAMES) - 1  # eps is no whole number: it has a list of its own
FUNCTION = {name: number for number, name in enumerate(FUNCTIONS)}
"""The functions of a prologue, by their number in a program."""
_FUNCTIONS = tuple(FUNCTIONS)


def encode(steps: Sequence[Step]) -> tuple[list[int], list[float]]:
    """Return the program and the eps of ``steps``."""
    return [int(number) for step in steps for number in astuple(step)[:-1]], [step.eps for step in steps]


def decode(program: Sequence[int], eps: Sequence[float]) -> list[Step]:
    """Return the steps of a checked program."""
    numbers = ((*program[i * NUMBERS : (i + 1) * NUMBERS], each) for i, each in enumerate(eps))
    return [Step(**dict(zip(_NAMES, each, strict=True))) for each in numbers]  # type: ignore[arg-type]


def check(rows: Sequence[Tensor], constants: Sequence[Tensor], program: Sequence[int], eps: Sequence[float]) -> None:
    """Raise RuntimeError unless the program fits the tensors."""
    count = len(program) // NUMBERS
    require(OP, rows, "at least one tensor of rows", "none")
    whole = len(program) % NUMBERS == 0 and 1 <= count <= MOST_STEPS
    require(OP, whole, f"a program of 1 to {MOST_STEPS} steps of {NUMBERS} numbers", f"{len(program)} numbers")
    require(OP, len(eps) == count, f"an eps for each of {count} steps", len(eps))
    for x in rows:
        tensors(OP, rows=x)
        require(OP, x.dtype in FLOATS, f"rows in {FLOAT}", x.dtype)
        require(OP, x.device == rows[0].device, f"rows on {rows[0].device}, where rows is", x.device)
        require(OP, x.dim() >= 1, "rows with at least one dimension", f"{x.dim()} dimensions")
        fits = x.dim() == rows[0].dim() and x.shape[:-1] == rows[0].shape[:-1]
        require(OP, fits, f"rows of the leading sizes of the first, {tuple(rows[0].shape)}", tuple(x.shape))
    for constant in constants:
        tensors(OP, rows=rows[0], constants=constant)
    columns = [x.shape[-1] for x in rows]
    for number, step in enumerate(decode(program, eps)):
        _check_step(number, step, columns, constants)
        columns.append(step.columns)
    kept = sum(bool(step.kept) for step in decode(program, eps))
    require(OP, 1 <= kept <= MOST_KEPT, "one or two steps that are kept", kept)


def _within(number: int, what: str, value: int, most: int) -> None:
    require(OP, 0 <= value < most, f"{what} from 0 to {most - 1} in step {number}", value)


def _check_step(number: int, step: Step, columns: Sequence[int], constants: Sequence[Tensor]) -> None:
    _within(number, "a kind", step.kind, len(Kind))
    _slice(number, step.x, step.x_first, step.x_count, columns)
    if step.kind == Kind.SUM or step.y != NONE:
        _slice(number, step.y, step.y_first, step.x_count, columns)
    _within(number, "a function", step.function, len(_FUNCTIONS))
    require(OP, step.eps >= 0, f"eps of at least 0 in step {number}", step.eps)
    _row(number, step.times, step.x_count, constants)
    _row(number, step.plus, step.x_count, constants)
    plain = step.function == 0 and step.times == NONE and step.plus == NONE
    require(OP, step.kind != Kind.SUM or plain, f"a sum without a prologue in step {number}", "one with")
    _within(number, "a linear op", step.linear, len(LINEARS))
    _within(number, "a dtype", step.dtype, len(FLOATS))
    if step.kind != Kind.PRODUCT:
        require(OP, step.columns == step.x_count, f"as many columns as it reads in step {number}", step.columns)
        return
    require(OP, step.columns >= 1, f"at least one column in step {number}", step.columns)
    _weight(number, step, constants)
    _row(number, step.bias, step.columns, constants)


def _slice(number: int, value: int, first: int, count: int, columns: Sequence[int]) -> None:
    _within(number, "a value", value, len(columns))
    fits = count >= 1 and 0 <= first and first + count <= columns[value]
    require(OP, fits, f"columns of the {columns[value]} there are in step {number}", f"{count} from {first}")


def _row(number: int, index: int, count: int, constants: Sequence[Tensor]) -> None:
    if index == NONE:
        return
    _within(number, "a constant", index, len(constants))
    given = constants[index]
    require(OP, given.dtype in FLOATS, f"a constant in {FLOAT} in step {number}", given.dtype)
    require(OP, same(given, (count,)), f"a constant of shape ({count},) in step {number}", tuple(given.shape))


def _weight(number: int, step: Step, constants: Sequence[Tensor]) -> None:
    _within(number, "a constant", step.weight, len(constants))
    w, k, n = constants[step.weight], step.x_count, step.columns
    (_, (_, scale), _), largest = (key := KEYS[LINEARS[step.linear]]), PRODUCTS[key].largest_k
    if scale.sizes:
        require(OP, step.group in scale.sizes, f"group in {scale.sizes} in step {number}", step.group)
    require(OP, largest is None or k <= largest, f"K from 1 to {largest} in step {number}", k)
    weight = weight_of(LINEARS[step.linear], {"group": step.group})
    panels, size = -(-n // PANEL), weight.panel_bytes(k)
    fits = w.dtype is torch.int8 and same(w, (panels, size))
    require(OP, fits, f"a weight of {panels} panels of {size} bytes in step {number}", f"{w.dtype} of {tuple(w.shape)}")


def shapes(rows: Sequence[Tensor], constants: Sequence[Tensor], program: Sequence[int], eps: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return empty results: rows [..., columns] of every step that is kept."""
    like, steps = rows[0], decode(program, eps)
    return _both([like.new_empty((*like.shape[:-1], step.columns), dtype=FLOATS[step.dtype]) for step in steps if step.kept])


def _both(kept: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return kept[0], kept[1] if len(kept) > 1 else kept[0].new_empty(0)


def reference(rows: Sequence[Tensor], constants: Sequence[Tensor], program: Sequence[int], eps: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return the kept results, one op a step."""
    values, kept = list(rows), []
    for step in decode(program, eps):
        values.append(_run(step, values, constants))
        kept += [values[-1]] if step.kept else []
    return _both(kept)


def _run(step: Step, values: Sequence[Tensor], constants: Sequence[Tensor]) -> Tensor:
    dtype = FLOATS[step.dtype]
    x = values[step.x][..., step.x_first : step.x_first + step.x_count]
    y = None if step.y == NONE else values[step.y][..., step.y_first : step.y_first + step.x_count]
    if step.kind == Kind.SUM:
        assert y is not None
        return (x.float() + y.float()).to(dtype)
    times, plus, bias = (None if i == NONE else constants[i] for i in (step.times, step.plus, step.bias))
    function, factor = _FUNCTIONS[step.function], times if y is None else y
    if step.kind == Kind.APPLY:
        return prologue(x, function, factor, plus, step.eps).to(dtype)
    op = LINEARS[step.linear]
    own = (step.group,) if PRODUCTS[KEYS[op]].schema else ()
    fused = {"prologue": function, "times": factor, "plus": plus, "eps": step.eps}
    return before.call(op, x, constants[step.weight], bias, step.columns, *own, dtype=dtype, fused=fused)
