"""lowbit::chain gives the bits of the ops that its steps stand for, on every ISA, and refuses every program that does not fit."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import operands
from helpers.children import outcomes
from lowbit_compiler.runtime import chain, kernels
from lowbit_compiler.runtime.chain import FUNCTION, LINEARS, Kind, Step, decode, encode
from lowbit_compiler.runtime.products import KEYS, weight_of
from lowbit_compiler.runtime.require import FLOATS

L = torch.ops.lowbit
K, WIDE = 100, 150  # neither is a multiple of a block or a panel
GATED, UP = 40, 60


GROUP = 32
S8, ROTATED = LINEARS.index("linear_s8s8"), LINEARS.index("linear_s8s8_rotated")
MIXED = (ROTATED, LINEARS.index("linear_fu4"), LINEARS.index("linear_s8u4_nested"))


def weight(n: int, k: int, linear: int = ROTATED) -> Tensor:
    w, packed = operands.weight(n, k), weight_of(LINEARS[linear], {"group": GROUP})
    return packed.pack(packed.quantize(L.rotate(w) if KEYS[LINEARS[linear]][2].rotates else w))


def step(linear: int, k: int, **fields: Any) -> Step:
    return Step(Kind.PRODUCT, **{"x": 0, "x_first": 0, "x_count": k, "linear": linear, "group": GROUP, **fields})


def layer(rows: int, dtype: torch.dtype, linears: tuple[int, int, int] = (ROTATED,) * 3) -> tuple[list[Tensor], list[Tensor], list[Step]]:
    """A product with a bias, a sum, a gated one with a norm before it, another sum, a norm alone, and a product without rotation."""
    x, y = operands.rows(rows, K, dtype), operands.rows(rows, K, dtype)
    gain, shift = torch.rand(K).to(dtype) + 0.5, torch.randn(K)
    first, second, third = linears
    constants = [
        weight(K, K, first),
        torch.randn(K).to(dtype),
        weight(WIDE, K, second),
        gain,
        shift,
        weight(K, GATED, third),
        weight(33, K, S8),
    ]
    d = FLOATS.index(dtype)
    steps = [
        step(first, K, weight=0, bias=1, dtype=d, columns=K),  # 2
        Step(Kind.SUM, 1, 0, K, y=2, dtype=d, columns=K),  # 3
        step(second, K, x=3, weight=2, function=FUNCTION["layer_norm"], times=3, plus=4, eps=1e-5, dtype=d, columns=WIDE),  # 4
        step(third, GATED, x=4, x_first=10, function=FUNCTION["silu"], y=4, y_first=UP, weight=5, dtype=d, columns=K),  # 5
        Step(Kind.SUM, 5, 0, K, y=3, dtype=d, columns=K, kept=1),  # 6
        Step(Kind.APPLY, 6, 0, K, function=FUNCTION["rms_norm"], times=3, eps=1e-6, dtype=d, columns=K),  # 7
        step(S8, K, x=7, weight=6, dtype=0, columns=33, kept=1),
    ]
    return [x, y], constants, steps


def apart(rows: list[Tensor], c: list[Tensor], linears: tuple[int, int, int] = (ROTATED,) * 3) -> list[Tensor]:
    """The same in ops of their own."""

    def product(linear: int, x: Tensor, w: Tensor, bias: Tensor | None, n: int, **before: Any) -> Tensor:
        op = LINEARS[linear]
        return getattr(L, op)(x, w, bias, n, *weight_of(op, {"group": GROUP}).arguments, None, **before)  # type: ignore[no-any-return]

    x, y = rows
    first, second, third = linears
    h = y + product(first, x, c[0], c[1], K)
    wide = product(second, h, c[2], None, WIDE, prologue="layer_norm", times=c[3], plus=c[4], eps=1e-5)
    gate, up = wide[..., 10 : 10 + GATED], wide[..., UP : UP + GATED]
    h = product(third, gate, c[5], None, K, prologue="silu", times=up) + h
    return [h]


@pytest.mark.parametrize("linears", [(number,) * 3 for number in range(1, len(LINEARS))] + [MIXED], ids=lambda numbers: LINEARS[numbers[0]])
def test_bits_of_any_product(linears: tuple[int, int, int], isa: str) -> None:
    """Whatever is multiplied: with the kernels of all rows also where the last block has few, and of rows that fixed point cannot hold."""
    with kernels.using(isa):
        for rows in (1, 5, 515):
            inputs, constants, steps = layer(rows, torch.bfloat16, linears)
            inputs[0][0] *= 2.0**100
            assert torch.equal(L.chain(inputs, constants, *encode(steps))[0], apart(inputs, constants, linears)[0])


@pytest.mark.parametrize("rows", [1, 2, 5, 17, 700])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_bits_of_its_ops(dtype: torch.dtype, rows: int, isa: str) -> None:
    inputs, constants, steps = layer(rows, dtype)
    program = encode(steps)
    with kernels.using(isa):
        h, last = L.chain(inputs, constants, *program)
        assert torch.equal(h, apart(inputs, constants)[0])
        # The norm alone: one rounding of what float64 gives; then integers of its rows.
        v = h.double()
        want = v * torch.rsqrt(v.square().mean(-1, keepdim=True) + 1e-6) * constants[3].double()
        alone = replace(steps[5], x=0, kept=1)
        normed, empty = L.chain([h], constants, *encode([alone]))
        about = torch.finfo(dtype)
        bound = want.abs() * (about.eps / 2 + (K + 8) * torch.finfo(torch.float32).eps) + about.tiny * about.eps / 2
        assert ((normed.double() - want).abs() <= bound).all()
        assert empty.shape == (0,)
        assert torch.equal(last, L.linear_s8s8(normed, constants[6], None, 33, torch.float32))


@pytest.mark.parametrize("linear", range(LINEARS.index("linear_fs8"), len(LINEARS)), ids=lambda number: LINEARS[number])
def test_float_rows_are_rounded_once(linear: int, isa: str) -> None:
    """What is in front of a product of float rows gives what a tensor between the two would."""
    op = getattr(L, LINEARS[linear])
    w, own = weight(33, K, linear), weight_of(LINEARS[linear], {"group": GROUP}).arguments
    with kernels.using(isa):
        for rows in (2, 40):
            x, y = (operands.rows(rows, K, torch.bfloat16) for _ in range(2))
            alone = Step(Kind.APPLY, 0, 0, K, y=1, function=FUNCTION["silu"], dtype=1, columns=K, kept=1)
            between = L.chain([x, y], [], *encode([alone]))[0]
            assert torch.equal(op(x, w, None, 33, *own, None, prologue="silu", times=y), op(between, w, None, 33, *own, None))


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_any_number_of_threads(threads: int) -> None:
    """Also more than there are cores, and inside a region of another op, where torch starts none."""
    inputs, constants, steps = layer(3, torch.bfloat16)
    big = [weight(4096, 512), weight(512, 4096)]
    two = [
        step(ROTATED, 512, weight=0, columns=4096),
        step(ROTATED, 4096, x=1, weight=1, columns=512, kept=1),
    ]
    x, before = torch.randn(2, 512), torch.get_num_threads()
    want = L.linear_s8s8_rotated(L.linear_s8s8_rotated(x, big[0], None, 4096, None), big[1], None, 512, None)
    try:
        torch.set_num_threads(threads)
        for _ in range(20):
            assert torch.equal(L.chain(inputs, constants, *encode(steps))[0], apart(inputs, constants)[0])
            assert torch.equal(L.chain([x], big, *encode(two))[0], want)
    finally:
        torch.set_num_threads(before)


def test_strided_rows_and_no_rows() -> None:
    (x, y), constants, steps = layer(6, torch.float32)
    program = encode(steps)
    want = L.chain([x, y], constants, *program)
    wide = torch.cat([x, y], -1)
    assert all(map(torch.equal, L.chain([wide[:, :K], wide[:, K:]], constants, *program), want))
    got = L.chain([x.reshape(2, 3, K).transpose(0, 1), y.reshape(2, 3, K).transpose(0, 1)], constants, *program)
    assert all(torch.equal(a, b.reshape(2, 3, -1).transpose(0, 1)) for a, b in zip(got, want, strict=True))
    assert [t.shape for t in L.chain([x[:0], y[:0]], constants, *program)] == [(0, K), (0, 33)]
    relu = Step(Kind.APPLY, 0, 0, K, function=FUNCTION["relu"], columns=K, kept=1)
    assert torch.equal(L.chain([x, x[:, :0]], [], *encode([relu]))[0], x.relu())
    wider = replace(relu, x=2, kept=0, dtype=1)
    assert [t.dtype for t in L.chain([x, y], [], *encode([relu, wider]))] == [torch.float32] * 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rows_that_int8_cannot_hold(bad: float) -> None:
    """They stay in float, and touch no other row."""
    (x, y), constants, steps = layer(5, torch.float32)
    x[2, 7] = bad
    got, want = L.chain([x, y], constants, *encode(steps)), apart([x, y], constants)
    assert torch.equal(got[0][[0, 1, 3, 4]], want[0][[0, 1, 3, 4]])
    torch.testing.assert_close(got[0][2], want[0][2], equal_nan=True)


def test_meta_and_reference_agree() -> None:
    inputs, constants, steps = layer(4, torch.bfloat16)
    program = encode(steps)
    got = L.chain(inputs, constants, *program)
    shapes = L.chain([x.to("meta") for x in inputs], [c.to("meta") for c in constants], *program)
    assert [(t.shape, t.dtype) for t in shapes] == [(t.shape, t.dtype) for t in got]
    for a, b in zip(got, chain.reference(inputs, constants, *program), strict=True):
        assert (a.float() - b.float()).abs().max() <= 8 * torch.finfo(torch.bfloat16).eps * b.float().abs().max()
    assert decode(*program) == steps


def changed(number: int, **fields: Any) -> Any:
    return lambda rows, constants, steps: (
        rows,
        constants,
        *encode([replace(s, **fields) if i == number else s for i, s in enumerate(steps)]),
    )


WRONG: dict[str, tuple[Any, str]] = {
    "no rows": (lambda r, c, s: ([], c, *encode(s)), "at least one tensor of rows, got none"),
    "half a step": (lambda r, c, s: (r, c, encode(s)[0][:-1], encode(s)[1]), "a program of 1 to 256 steps of 16 numbers, got 111 numbers"),
    "nothing": (lambda r, c, s: (r, c, [], []), "a program of 1 to 256 steps of 16 numbers, got 0 numbers"),
    "too long": (lambda r, c, s: (r, c, *encode(s * 40)), "a program of 1 to 256 steps of 16 numbers, got 4480 numbers"),
    "eps missing": (lambda r, c, s: (r, c, encode(s)[0], encode(s)[1][1:]), "an eps for each of 7 steps, got 6"),
    "int rows": (lambda r, c, s: ([r[0], r[1].int()], c, *encode(s)), "rows in float32, bfloat16 or float16, got torch.int32"),
    "other rows": (lambda r, c, s: ([r[0], r[1][:2]], c, *encode(s)), "rows of the leading sizes of the first, (4, 100), got (2, 100)"),
    "a number": (lambda r, c, s: ([r[0][0, 0]], c, *encode(s)), "rows with at least one dimension, got 0 dimensions"),
    "no such kind": (changed(0, kind=3), "a kind from 0 to 2 in step 0, got 3"),
    "a value to come": (changed(1, x=3), "a value from 0 to 2 in step 1, got 3"),
    "a negative value": (changed(1, x=-1), "a value from 0 to 2 in step 1, got -1"),
    "a sum of one": (changed(1, y=-1), "a value from 0 to 2 in step 1, got -1"),
    "columns beyond": (changed(3, x_first=111), "columns of the 150 there are in step 3, got 40 from 111"),
    "columns before": (changed(3, x_first=-1), "columns of the 150 there are in step 3, got 40 from -1"),
    "no columns": (changed(3, x_count=0), "columns of the 150 there are in step 3, got 0 from 10"),
    "factors beyond": (changed(3, y_first=2**62), f"columns of the 150 there are in step 3, got 40 from {2**62}"),
    "a sum of a function": (changed(1, function=1), "a sum without a prologue in step 1, got one with"),
    "a sum with a gain": (changed(1, times=3), "a sum without a prologue in step 1, got one with"),
    "no such function": (changed(2, function=7), "a function from 0 to 6 in step 2, got 7"),
    "negative eps": (changed(2, eps=-1.0), "eps of at least 0 in step 2, got -1"),
    "no such constant": (changed(2, times=7), "a constant from 0 to 6 in step 2, got 7"),
    "a long gain": (changed(3, y=-1, times=3), "a constant of shape (40,) in step 3, got (100,)"),
    "a packed gain": (changed(2, plus=0), "a constant in float32, bfloat16 or float16 in step 2, got torch.int8"),
    "no weight": (changed(0, weight=-1), "a constant from 0 to 6 in step 0, got -1"),
    "another weight": (changed(0, weight=2), "a weight of 7 panels of 2176 bytes in step 0, got torch.int8 of (10, 2176)"),
    "no packed weight": (changed(0, weight=3), "a weight of 7 panels of 2176 bytes in step 0, got torch.bfloat16 of (100,)"),
    "no such op": (changed(0, linear=19), "a linear op from 0 to 18 in step 0, got 19"),
    "no such group": (changed(0, linear=2, group=48), "group in (32, 64, 128) in step 0, got 48"),
    "no such group of lines in float32": (changed(0, linear=17, group=48), "group in (32, 16, 64, 128) in step 0, got 48"),
    "no such dtype": (changed(0, dtype=3), "a dtype from 0 to 2 in step 0, got 3"),
    "no results": (changed(6, columns=0), "at least one column in step 6, got 0"),
    "a wider sum": (changed(1, columns=101), "as many columns as it reads in step 1, got 101"),
    "nothing kept": (lambda r, c, s: (r, c, *encode([replace(step, kept=0) for step in s])), "one or two steps that are kept, got 0"),
    "all kept": (lambda r, c, s: (r, c, *encode([replace(step, kept=1) for step in s])), "one or two steps that are kept, got 7"),
}  # fmt: skip
WRONG_VALUES: dict[str, tuple[Any, str]] = {
    "more rows": (lambda r, c, s: ([r[0]], [c[0]], *encode([replace(s[0], bias=-1, columns=98, kept=1)])),
                  "a weight packed for n = 98 in step 0, got one of more rows"),
    "more columns": (lambda r, c, s: ([r[0][:, :90]], [c[6]], *encode([replace(s[6], x=0, x_count=90, weight=0)])),
                     "a weight packed for K = 90 in step 0, got one of more columns"),
}  # fmt: skip


@pytest.mark.parametrize("way", ["called", "reference", "meta"])
def test_programs_that_do_not_fit(way: str) -> None:
    inputs, constants, steps = layer(4, torch.bfloat16)
    cases = WRONG if way == "meta" else WRONG | WRONG_VALUES
    keys, key = torch._C.DispatchKeySet, torch._C.DispatchKey

    def call(case: str) -> Any:
        rows, others, *program = cases[case][0](inputs, constants, steps)
        if way == "meta":
            rows, others = [x.to("meta") for x in rows], [x.to("meta") for x in others]
        if way == "reference":  # a key that has no kernel
            return L.chain.default.redispatch(keys(key.PrivateUse1), rows, others, *program)
        return L.chain(rows, others, *program)

    got = outcomes({case: lambda case=case: call(case) for case in cases})
    wrong = {case: got.get(case, "not reached") for case in cases if f"lowbit::chain: expected {cases[case][1]}" not in got.get(case, "")}
    assert not wrong, "\n".join(f"{case}: {text}, not {cases[case][1]!r}" for case, text in wrong.items())
