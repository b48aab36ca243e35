"""GPTQ against its definition in float64, and its error against rounding to nearest."""

import pytest
import torch
from torch import Tensor

from helpers.operands import weight as sample
from helpers.prepared import correlated
from lowbit_compiler.preparing.gptq import DAMPING, OWN, column_by_column, factor, gptq
from lowbit_compiler.preparing.lines import lines_of
from lowbit_compiler.preparing.refine import refined
from lowbit_compiler.runtime.formats import Operand, operand
from lowbit_compiler.runtime.formats.lines import HalfLines

WORDS = {
    "int2": 32,
    "int3": 32,
    "int4": 64,
    "int4-nested": 32,
    "int5": 32,
    "int6": 32,
    "int8-groups": 128,
    "int8": 32,
    "int4-symmetric": 32,
}
TIE = 2e-4
"""Of a gap: what float32 makes of a code before it is rounded; from a tie on the columns to come differ."""
every = pytest.mark.parametrize("word", WORDS)


def of(word: str) -> Operand:
    found = operand(word, WORDS[word])
    assert found is not None
    return found


def hessian(k: int, rows: int = 400) -> Tensor:
    x = correlated(rows, k)
    return x.t() @ x / rows


def directly(w: Tensor, h: Tensor, form: Operand) -> tuple[Tensor, Tensor]:
    """The columns by falling diagonal; after each, the weights to come move by what makes the error least, from the inverse of what is left of H.

    Returns the codes, and how near to a tie each row comes.
    """
    h = damped(h.double())
    parts = form.quantize(w, h.diagonal().float())
    lines = lines_of(form, parts, w.shape[1])
    slope, minimum = (number.double() for number in lines.columns)
    inverse = torch.where(slope > 0, 1 / slope, torch.zeros_like(slope))
    w, codes = w.double().clone(), torch.zeros_like(w, dtype=torch.float64)
    tie = torch.ones(len(w), dtype=torch.float64)
    left = torch.argsort(h.diagonal(), descending=True, stable=True).tolist()
    while left:
        at = torch.tensor(left)
        own = torch.linalg.inv(h[at][:, at])
        k = left.pop(0)
        code = (w[:, k] - minimum[:, k]) * inverse[:, k]
        tie = torch.minimum(tie, (code - code.floor() - 0.5).abs())
        codes[:, k] = torch.round(code).clamp(*lines.codes)
        error = w[:, k] - (codes[:, k] * slope[:, k] + minimum[:, k])
        w[:, at] -= torch.outer(error, own[0] / own[0, 0])
    return codes, tie


def found_of(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    found = factor(h)
    assert found is not None
    return found


def damped(h: Tensor) -> Tensor:
    return h + torch.diag(OWN * h.diagonal() + DAMPING * h.diagonal().mean())


def lost(w: Tensor, parts: tuple[Tensor, ...], h: Tensor, form: Operand) -> float:
    error = form.dequantize(parts).double() - w.double()
    return float(((error @ h.double()) * error).sum())


@every
def test_codes_are_those_of_the_definition(word: str) -> None:
    w, h = torch.randn(16, 160), hessian(160)
    parts = column_by_column(w, found_of(h), of(word))
    codes, tie = directly(w, h, of(word))
    clear = tie > TIE
    assert clear.sum() > len(w) / 2
    assert torch.equal(parts[0][clear].double(), codes[clear])
    assert [part.dtype for part in parts] == [part.dtype for part in of(word).quantize(w)]
    assert [part.shape for part in parts] == [part.shape for part in of(word).quantize(w)]


@every
@pytest.mark.parametrize("k", [160, 200])
def test_loses_less_than_rounding_to_nearest(word: str, k: int) -> None:
    """200 is no multiple of a group: the last one is short."""
    w, h = sample(24, k), hessian(k)
    parts = gptq(w, h, of(word))
    assert parts is not None
    assert lost(w, parts, h, of(word)) < 0.7 * lost(w, of(word).quantize(w), h, of(word))


@every
def test_coordinate_descent_loses_less(word: str) -> None:
    """Than GPTQ alone, and another time no more."""
    w, h, form = sample(24, 200), hessian(200), of(word)
    first = column_by_column(w, found_of(h), form)
    parts = refined(w, first, damped(h), form)
    before, after = (lost(w, each, damped(h), form) for each in (first, parts))
    assert after < (0.99 if isinstance(form.scale, HalfLines) and form.format.grid.bits < 8 else 1.0) * before
    assert [part.dtype for part in parts] == [part.dtype for part in first]
    assert lost(w, refined(w, parts, damped(h), form), damped(h), form) <= after * (1 + 1e-4)


def test_the_factor_is_that_of_the_inverse() -> None:
    h = hessian(96)
    found = factor(h)
    assert found is not None
    diagonal, order, upper = found
    whole = damped(h.double())
    product = upper.double() @ whole[order][:, order] @ upper.double().t()
    assert (product - torch.eye(96, dtype=torch.float64)).abs().max() < 1e-3
    assert torch.equal(upper, upper.triu())
    assert torch.equal(diagonal[order], diagonal.sort(descending=True).values)


def test_columns_that_were_never_read_are_rounded_to_nearest() -> None:
    w, h = torch.randn(16, 64), hessian(64)
    dead = torch.tensor([3, 40, 63])
    h[dead] = 0.0
    h[:, dead] = 0.0
    form = of("int4-nested")
    parts = gptq(w, h, form)
    assert parts is not None
    slope, minimum = lines_of(form, parts, 64).columns
    nearest = torch.round((w - minimum) / slope).clamp(0, 15)
    assert torch.equal(parts[0][:, dead].float(), nearest[:, dead])
    every_one = column_by_column(w, found_of(torch.zeros(64, 64)), form)
    assert torch.equal(every_one[0], form.quantize(w)[0])


def test_more_damping_where_it_is_not_positive_definite() -> None:
    h = hessian(64)
    h[0, 1] = h[1, 0] = 1.5 * float((h[0, 0] * h[1, 1]).sqrt())  # no such correlation exists
    found = factor(h)
    assert found is not None
    assert torch.isfinite(found[2]).all()
    assert float((found[0] - h.diagonal()).min()) > 5 * DAMPING * float(h.diagonal().mean())
    assert gptq(torch.randn(16, 64), h, of("int4")) is not None


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_left_to_others(bad: float) -> None:
    w, h = torch.randn(16, 64), hessian(64)
    spoiled = h.clone()
    spoiled[3, 4] = bad
    assert gptq(w, spoiled, of("int4")) is None
    w[2, 2] = bad
    assert gptq(w, h, of("int4")) is None
