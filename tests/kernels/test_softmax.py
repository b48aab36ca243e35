"""lowbit::softmax against float64 within the bounds of docs/arithmetic.md, on every ISA and by both algorithms."""

import itertools
import math

import pytest
import torch

from helpers import bounds, operands
from helpers.softmax import ALGORITHMS, check, softmax, uniform
from lowbit_compiler.runtime import kernels, reference

INF = torch.inf
MAX = torch.finfo(torch.float32).max
BOTH = pytest.mark.parametrize("algorithm", ALGORITHMS)
pytestmark = pytest.mark.usefixtures("one_thread")


@BOTH
@pytest.mark.parametrize("n", [256, 1000, 4096, 65_537, 1_000_000])
def test_accuracy(isa, algorithm, n):
    x = uniform(n)
    with kernels.using(isa=isa), kernels.forcing_softmax(algorithm):
        y = check(x).double()
    expected = torch.softmax(x.double(), 0)
    normal = expected > 2.0**-125
    assert float(((y - expected).abs() / expected)[normal].max()) <= 5e-7
    assert abs(float(y.sum()) - 1) <= 1e-6


def test_defaults():
    x = uniform(3, 40)
    assert torch.equal(torch.ops.lowbit.softmax(x, 1), torch.ops.lowbit.softmax(x, 1, 1.0, None, False, None))


@BOTH
def test_sum_of_a_long_row(isa, algorithm):
    n = 1 << (22 if isa == "scalar" else 24)
    for x in (torch.randn(n, generator=operands.generator(1)), torch.full((n,), 0.3)):
        with kernels.using(isa=isa), kernels.forcing_softmax(algorithm):
            assert abs(float(softmax(x).sum(dtype=torch.float64)) - 1) <= 1e-6


@BOTH
def test_terms_half_lost(isa, algorithm):
    width = {"scalar": 4, "avx2": 8}.get(isa, 16)
    least = math.log(0.55 * 2.0**-23)  # a sum of one and more rounds this up to 2^-23
    x, column = torch.full((64 * width,), -100.0), torch.full((16, 100), least)
    x[:: 4 * width], x[0], column[0] = least, 0, 0
    with kernels.using(isa=isa), kernels.forcing_softmax(algorithm):
        for scores, y in ((x, check(x)), (column, check(column, dim=0))):
            expected = torch.softmax(scores.double(), 0)
            assert bool(((y - expected).abs() <= 6 * bounds.EPS * expected + bounds.FLUSHED).all())


@BOTH
@pytest.mark.parametrize("dtype", operands.DTYPES)
@pytest.mark.parametrize("log", [False, True])
def test_lengths(isa, algorithm, dtype, log):
    tile = 64 * {"scalar": 4, "avx2": 8}.get(isa, 16)
    lengths = {*range(1, 70), *(tile * k + d for k in (1, 2) for d in (-17, -1, 0, 1)), 2 * tile + 1}
    with kernels.using(isa=isa), kernels.forcing_softmax(algorithm):
        for n in sorted(lengths):
            check(uniform(3, n, reach=20.0, seed=n).to(dtype), log=log)


@BOTH
@pytest.mark.parametrize(("dtype", "out"), list(itertools.product(operands.DTYPES, operands.DTYPES)))
def test_dtypes(isa, algorithm, dtype, out):
    x = operands.rows(5, 700, dtype)
    with kernels.using(isa=isa), kernels.forcing_softmax(algorithm):
        for log, scale in ((False, 1.0), (False, 0.125), (True, 1.0), (True, 0.3)):
            check(x, scale=scale, log=log, dtype=out)
            check(x, dim=0, scale=scale, log=log, dtype=out)


def masks(shape):
    *rest, n = shape
    causal = torch.ones(rest[-1], n, dtype=torch.bool).tril()
    some = torch.rand(shape, generator=operands.generator(3)) < 0.7
    some[..., 0] = True
    made = {
        "causal": causal,
        "some": some,
        "one row": some[:1, :1],
        "a row each": some[..., :1],
        "left padding": ~causal.flip(-1) | (n == 1),
    }
    for dtype in operands.DTYPES:
        made[f"bias {dtype}"] = torch.randn(shape, generator=operands.generator(4)).to(dtype)
        made[f"causal {dtype}"] = torch.zeros(rest[-1], n, dtype=dtype).masked_fill(~causal, -INF)
    made["-1e9"] = torch.zeros(rest[-1], n).masked_fill(~causal, -1e9)
    made["-max"] = torch.zeros(rest[-1], n).masked_fill(~causal, -MAX)
    made["transposed"] = torch.randn(*rest[:-1], n, rest[-1]).mT
    made["every other"] = torch.randn(*rest, 2 * n)[..., ::2]
    return made


@BOTH
@pytest.mark.parametrize("dtype", operands.DTYPES)
def test_masks(isa, algorithm, dtype):
    for shape in ((2, 9, 33), (1, 3, 1500)):
        x = uniform(*shape, reach=10.0).to(dtype)
        with kernels.using(isa=isa), kernels.forcing_softmax(algorithm):
            for name, mask in masks(shape).items():
                for log in (False, True):
                    y = check(x, scale=0.25, mask=mask, log=log)
                if name in ("causal", "-1e9", "-max"):
                    check(x, mask=mask)
                    hidden = mask.expand(shape) != (name == "causal")
                    assert not softmax(x, mask=mask)[hidden].any()
                assert y.dtype == dtype
                check(x, dim=1, mask=mask)


@BOTH
@pytest.mark.parametrize("value", [-1e9, -3e38, 1e9])
def test_mask_of_all(isa, algorithm, value):
    with kernels.using(isa=isa), kernels.forcing_softmax(algorithm):
        for shape in ((2, 4), (1, 3, 1500)):
            x = torch.arange(4.0).repeat(*shape[:-1], shape[-1] // 4)
            for mask in (torch.full(shape, value), torch.tensor(value)):
                assert torch.equal(check(x, mask=mask), torch.full_like(x, 1 / shape[-1]))
                check(x.mT.contiguous(), dim=-2, mask=mask.expand(shape).mT)
                torch.testing.assert_close(softmax(x, mask=mask), reference.softmax.softmax(x, -1, 1.0, mask, False, None))


def special():
    base = uniform(100, reach=5.0)
    rows = {}
    for name, value in {"nan": torch.nan, "inf": INF, "-inf": -INF, "-1e9": -1e9, "-max": -MAX, "1e9": 1e9, "max": MAX}.items():
        rows[name] = base.clone()
        rows[name][[3, 60]] = value
        rows[f"all {name}"] = torch.full((100,), value)
    rows["inf and -inf"] = rows["inf"].clone()
    rows["inf and -inf"][50] = -INF
    rows["late nan"] = base.clone()
    rows["late nan"][-1] = torch.nan
    rows["shifted up"], rows["shifted down"] = 1e5 + torch.arange(100.0) % 3, -1e5 + torch.arange(100.0) % 3
    rows["past the domain"], rows["below the domain"] = 1e6 + torch.arange(100.0), -1e6 - torch.arange(100.0)
    rows["large"] = uniform(100, reach=3e38)
    rows["subnormal"] = torch.full((100,), 1e-40)
    rows["overflow"] = 90 + uniform(100, reach=10.0)
    return rows


@BOTH
@pytest.mark.parametrize("log", [False, True])
def test_special_rows(isa, algorithm, log):
    made = torch.stack(list(special().values()))
    for x in (made, made.repeat(1, 15), torch.cat([made[:, :50].repeat(1, 26), made[:, 50:].repeat(1, 26)], 1)):
        with kernels.using(isa=isa), kernels.forcing_softmax(algorithm):
            check(x, log=log)
            check(x.T.contiguous(), dim=0, log=log)
            check(x, scale=-2.5, log=log)
    same = torch.tensor([-1e9, -MAX, 3e5, MAX, 0.0])[:, None].repeat(1, 7)
    with kernels.using(isa=isa), kernels.forcing_softmax(algorithm):
        assert torch.equal(softmax(same), torch.full((5, 7), 1 / 7))
