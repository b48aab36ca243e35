"""lowbit::softmax against float64 within the bounds of docs/arithmetic.md, on every ISA and by both algorithms."""

import itertools
import math
import time

import pytest
import torch

from helpers import bounds, operands
from lowbit_compiler.runtime import kernels, library, reference

L = torch.ops.lowbit
INF = torch.inf
MAX = torch.finfo(torch.float32).max
ALGORITHMS = ("two-pass", "three-pass")
BOTH = pytest.mark.parametrize("algorithm", ALGORITHMS)
needs_library = pytest.mark.skipif(library.handle() is None, reason="no native library")


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def softmax(x, dim=-1, scale=1.0, mask=None, log=False, dtype=None):
    return L.softmax(x, dim, scale, mask, log, dtype)


def check(x, dim=-1, scale=1.0, mask=None, log=False, dtype=None, threads=1):
    torch.set_num_threads(threads)  # of the op only: the reference is not what is tested
    got = softmax(x, dim, scale, mask, log, dtype)
    torch.set_num_threads(1)
    expected, bound = bounds.softmax(x, dim, scale, mask, log, dtype or x.dtype)
    assert got.shape == x.shape
    assert got.is_contiguous()
    assert torch.equal(got.isnan(), expected.isnan())
    infinite = expected.isinf()
    assert torch.equal(got[infinite].double(), expected[infinite])
    finite = ~expected.isnan() & ~infinite
    bounds.assert_within(got[finite], expected[finite], bound[finite])
    return got


def uniform(*shape, reach=100.0, seed=0):
    return (torch.rand(*shape, generator=operands.generator(seed)) * 2 - 1) * reach


@BOTH
@pytest.mark.parametrize("n", [1000, 65_537, 1_000_000])
def test_accuracy(isa, algorithm, n):
    x = uniform(n)
    with kernels.using(isa=isa), kernels.forcing_softmax(algorithm):
        y = check(x).double()
    expected = torch.softmax(x.double(), 0)
    normal = expected > 2.0**-125
    assert float(((y - expected).abs() / expected)[normal].max()) <= 5e-7
    assert abs(float(y.sum()) - 1) <= 1e-6


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


@BOTH
def test_rising_rows(isa, algorithm):
    steps = torch.arange(6000) // 300
    for x in (steps * 90.0, steps * -90.0, (steps % 3) * 300.0, steps * 5000.0):
        with kernels.using(isa=isa), kernels.forcing_softmax(algorithm):
            for padded in (x, torch.cat([torch.full((3000,), -INF), x]), torch.cat([x, torch.full((3000,), -1e9)])):
                check(padded)
                check(padded, log=True)


@BOTH
@pytest.mark.parametrize("rise", [40.0, 50.0, 60.0, 65.0])
def test_rising_twice(isa, algorithm, rise):
    x = torch.zeros(3000)  # e^rise is kept relative to 1, and counts next to what makes 2^-127 and less of 1
    x[[1500, 2900]] = torch.tensor([rise, rise + 40])
    with kernels.using(isa=isa), kernels.forcing_softmax(algorithm):
        y = check(x)
        assert float(y[1500]) > 0
        x[2900] = 100
        check(x)
        check(x, log=True)


@BOTH
def test_one_element(isa, algorithm):
    with kernels.using(isa=isa), kernels.forcing_softmax(algorithm):
        for dtype in operands.DTYPES:
            x = torch.cat([torch.tensor([0.0, 1.0, -3.7, 88.0, 1e4, -6e4]), uniform(500)]).to(dtype)[:, None]
            for one, dim in ((x, 1), (x[None], 0), (x.T, 0), (x[:, :, None], 1)):
                assert torch.equal(softmax(one, dim=dim), torch.ones_like(one))
                assert torch.equal(softmax(one, dim=dim, log=True), torch.zeros_like(one))
            assert torch.equal(softmax(x[0, 0], dim=0), torch.ones((), dtype=dtype))
            for mask in (torch.randn(506, 1), torch.arange(506)[:, None] % 2 > 0, torch.tensor([[-INF]]), torch.tensor([[True]])):
                for one, dim in (
                    (x, 1),
                    (x.T, 0),
                    (x[:, :, None].expand(-1, 1, 3), 1),
                    (x[:, :, None].repeat(1, 1, 3), 1),
                    (x.repeat(1, 2)[:, 1:], 1),
                ):
                    added = mask.T if dim == 0 else mask[:, :, None] if one.dim() == 3 else mask
                    check(one, dim=dim, mask=added)
                    check(one, dim=dim, mask=added, log=True)


def test_one_element_that_is_not_finite(isa):
    x = torch.tensor([INF, -INF, torch.nan, MAX, -MAX, 0.0])
    with kernels.using(isa=isa):
        for one, dim in ((x[:, None], 1), (x[None], 0), (x.repeat_interleave(2)[::2, None], 1), (x[:, None, None].repeat(1, 1, 5), 1)):
            for log in (False, True):
                y = check(one, dim=dim, scale=3.0, log=log)
                assert torch.equal(y.isnan(), ~one.isfinite())
                check(one, dim=dim, mask=one, log=log)


def least(call):
    times = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


@needs_library
def test_one_element_is_no_slow_row():
    x = torch.zeros(1 << 20)
    for one, dim in ((x[:, None], 1), (x[None], 0), (x.view(-1, 1, 4), 1)):
        assert least(lambda one=one, dim=dim: softmax(one, dim=dim)) < 5 * least(lambda: softmax(x.view(-1, 1024)))


@BOTH
def test_dims_and_strides(isa, algorithm):
    base = uniform(4, 6, 10, 70, reach=30.0)
    views = [
        base,
        base[:, ::2, 1:, 3:],
        base.transpose(1, 2),
        base.mT,
        base[..., ::2],
        base[:1].expand(3, 6, 10, 70),
        base[:, :, :, :1],
        base[0],
    ]
    views += [base.to(memory_format=torch.channels_last), base.permute(3, 2, 1, 0), base[:, :, ::3].mT]
    with kernels.using(isa=isa), kernels.forcing_softmax(algorithm):
        for x in views:
            for dim in range(-x.dim(), x.dim()):
                check(x, dim=dim)
                mask = torch.randn([size if d % 2 else 1 for d, size in enumerate(x.shape)])
                check(x, dim=dim, scale=2.0, mask=mask)
                check(x, dim=dim, mask=torch.randn(x.shape).mT.contiguous().mT > -1)


@needs_library
def test_mask_is_copied_in_its_own_sizes():
    x, mask = uniform(32, 256, 256), torch.randn(256, 256)
    check(x, mask=mask.T)
    check(x, dim=1, mask=mask.T)
    assert least(lambda: softmax(x, mask=mask.T)) < 3 * least(lambda: softmax(x, mask=mask))


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (2, 0, 3), (3, 2, 0)])
def test_empty(shape):
    for dim in range(len(shape)):
        assert softmax(torch.empty(shape), dim=dim).shape == shape


@needs_library
@BOTH
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(algorithm, threads):
    with kernels.forcing_softmax(algorithm):
        for shape in ((70_001,), (2, 40_001), (300, 301), (3, 11, 2000)):
            x = uniform(*shape)
            check(x, threads=threads)
            check(x, log=True, threads=threads)
            check(x, dim=0, threads=threads)
            for value in (torch.nan, -INF, 1e9):
                hit = x.clone()
                hit.view(-1)[-5] = value
                check(hit, threads=threads)
        check(uniform(70_001).bfloat16(), mask=torch.arange(70_001) % 7 > 2, threads=threads)
        check(torch.full((70_001,), -1e9), threads=threads)
        check(torch.cat([torch.full((40_000,), -1e9), uniform(40_000)]), threads=threads)


@needs_library
@BOTH
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_parts_that_rise(isa, algorithm, threads):
    n = 65_536
    low = torch.full((n,), -30.0)  # its part keeps e^65 relative to e^-30; the other starts at 60
    low[n // 4], low[n // 2 :] = 35, 60 - torch.arange(n // 2) % 50
    rows = [low, low.flip(0).contiguous()]
    for rise in (40.0, 50.0, 65.0):
        row = torch.zeros(n)
        row[[3000, 9000, n // 2 + 3000, n // 2 + 9000]] = torch.tensor([rise, 100.0, rise, rise + 70])
        rows += [row, row.roll(n // 2)]
    with kernels.using(isa=isa), kernels.forcing_softmax(algorithm):
        for row in rows:
            check(row, threads=threads)
            check(row, log=True, threads=threads)
