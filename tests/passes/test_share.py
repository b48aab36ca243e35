"""Tables of sines and cosines are kept where several nodes read them."""

import re

import pytest
import torch
from torch import Tensor
from torch._inductor.utils import run_and_get_code

from helpers.graphs import before_and_after, calls, rerun
from lowbit_compiler.passes.share import ShareTables

KEEP = "prims.inductor_force_stride_order"
ANGLES, X = torch.randn(6, 8), torch.randn(4, 6, 8)


def rotary(angles: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = (angles.cos() * 1.0).bfloat16(), angles.sin() * 0.5
    return x * cos + x * sin, (x + 1) * cos - x * sin


def test_tables_are_kept() -> None:
    captured, ctx, want, got = before_and_after(rotary, (ANGLES, X), "share")
    assert calls(captured.gm).count(KEEP) == 2
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert rerun(ShareTables(), captured, ctx) == 0


def test_one_reader_or_something_else_is_not() -> None:
    captured, *_ = before_and_after(lambda a, x: (x * a.cos(), x * (a.sin() + 1), x - (a.sin() + 1), a + 1), (ANGLES, X), "share")
    assert KEEP not in calls(captured.gm)


@pytest.mark.parametrize("remainder", ["inductor", "eager"])
@pytest.mark.filterwarnings("error::UserWarning:torch.fx")
def test_symbolic_sizes(remainder: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda a, x: rotary(a[None], x), backend="lowbit", dynamic=True, options={"remainder": remainder})
    for rows in (6, 11):
        angles, x = torch.randn(rows, 8), torch.randn(4, rows, 8)
        with torch.no_grad():
            for got, want in zip(compiled(angles, x), rotary(angles[None], x), strict=True):
                torch.testing.assert_close(got, want)


def test_inductor_computes_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the pass is for: without it the sines stand in every loop over x."""

    def layers(angles: Tensor, x: Tensor) -> Tensor:
        cos = angles.cos().bfloat16()
        for _ in range(3):
            x = torch.softmax(x * cos, -1)
        return x

    def cosines() -> int:
        torch._dynamo.reset()
        with torch.no_grad():
            _, (code, *_) = run_and_get_code(torch.compile(layers, backend="lowbit"), ANGLES, X)
        return len(re.findall(r"\bcos\(", code))

    shared = cosines()
    monkeypatch.setenv("LOWBIT_DISABLE", "share")
    assert 3 * shared == cosines()
