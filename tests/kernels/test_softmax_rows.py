"""lowbit::softmax where its rows are unusual: rising, of one element, strided, split over threads."""

import pytest
import torch

from helpers import operands
from helpers.softmax import ALGORITHMS, check, softmax, uniform
from lowbit_compiler.runtime import kernels, library

INF = torch.inf
MAX = torch.finfo(torch.float32).max
BOTH = pytest.mark.parametrize("algorithm", ALGORITHMS)
pytestmark = pytest.mark.usefixtures("one_thread")
needs_library = pytest.mark.skipif(library.handle() is None, reason="no native library")


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
def test_mask_that_is_not_dense():
    x, mask = uniform(32, 256, 256), torch.randn(256, 256)
    check(x, mask=mask.T)
    check(x, dim=1, mask=mask.T)


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
