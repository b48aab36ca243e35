"""Activations and normalizations move into the product that reads them, and only there."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.graphs import before_and_after, calls, rerun
from lowbit_compiler.passes.prologue import FusePrologue

K = 96
torch.manual_seed(0)
LINEAR = nn.Linear(K, 64)
X, Y = torch.randn(2, 3, K), torch.randn(2, 3, K)
GAIN, SHIFT = torch.rand(K) + 0.5, torch.randn(K)


def rms(x: Tensor, gain: Tensor | None = None, eps: float = 1e-6, square: Callable[[Tensor], Tensor] = torch.square) -> Tensor:
    h = x.to(torch.float32)
    h = h * torch.rsqrt(square(h).mean(-1, keepdim=True) + eps)
    return h.to(x.dtype) if gain is None else gain * h.to(x.dtype)


def gemma(x: Tensor) -> Tensor:
    h = x.float()
    return ((h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)) * (1.0 + GAIN)).type_as(x)


FUSED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], dict[str, Any]]] = {
    "silu": (lambda x, y: F.silu(x), {"prologue": "silu"}),
    "gelu": (lambda x, y: F.gelu(x), {"prologue": "gelu"}),
    "gelu tanh": (lambda x, y: F.gelu(x, approximate="tanh"), {"prologue": "gelu_tanh"}),
    "relu": (lambda x, y: x.relu(), {"prologue": "relu"}),
    "relu, then idle dropout": (lambda x, y: F.dropout(torch.relu(x), 0.1, False), {"prologue": "relu"}),
    "gated": (lambda x, y: F.silu(x) * y, {"prologue": "silu", "times": "y"}),
    "gated the other way": (lambda x, y: y * F.gelu(x), {"prologue": "gelu", "times": "y"}),
    "gated by itself": (lambda x, y: F.silu(x) * x, {"prologue": "silu", "times": "x"}),
    "layer_norm": (
        lambda x, y: F.layer_norm(x, (K,), GAIN, SHIFT, 1e-3),
        {"prologue": "layer_norm", "times": "", "plus": "", "eps": 1e-3},
    ),
    "layer_norm alone": (lambda x, y: F.layer_norm(x, (K,)), {"prologue": "layer_norm", "eps": 1e-5}),
    "rms_norm": (lambda x, y: F.rms_norm(x, (K,), GAIN, 1e-3), {"prologue": "rms_norm", "times": "", "eps": 1e-3}),
    "rms_norm with torch's eps": (lambda x, y: F.rms_norm(x, (K,)), {"prologue": "rms_norm", "eps": torch.finfo(torch.float32).eps}),
    "a slice of all of it": (lambda x, y: F.rms_norm(x, (K,), GAIN, 1e-3)[:, slice(0, None), :], {"prologue": "rms_norm", "times": "", "eps": 1e-3}),
    "only the last of two": (lambda x, y: F.silu(torch.relu(x)), {"prologue": "silu"}),
    "a norm of an activation": (lambda x, y: F.layer_norm(F.gelu(x), (K,)), {"prologue": "layer_norm", "eps": 1e-5}),
    "written out": (lambda x, y: rms(x, GAIN), {"prologue": "rms_norm", "times": "", "eps": 1e-6}),
    "written out with x * x": (lambda x, y: rms(x, None, 1e-2, lambda h: h * h), {"prologue": "rms_norm", "eps": 1e-2}),
    "written out with a gain of 1 + w": (lambda x, y: gemma(x), {"prologue": "rms_norm", "times": "", "eps": 1e-6}),
}  # fmt: skip


def run(fn: Callable[[Tensor, Tensor], Any], dtype: torch.dtype = torch.float32) -> tuple[Any, Any, list[dict[str, Any]], Any]:
    """Return the outputs without and with the pass, what the products were given, and the graph."""
    inputs = X.to(dtype), Y.to(dtype)
    *_, plain = before_and_after(fn, inputs, "pack")
    captured, ctx, _, fused = before_and_after(fn, inputs, "prologue")
    given = [dict(site.node.kwargs) for site in ctx.planned()]
    assert rerun(FusePrologue(), captured, ctx) == 0
    plain, fused = (out[0] if len(out) == 1 else out for out in (plain, fused))
    return plain, fused, given, captured.gm


@pytest.mark.parametrize("name", FUSED)
def test_fused(name: str) -> None:
    fn, arguments = FUSED[name]
    plain, fused, (given,), gm = run(lambda x, y: LINEAR(fn(x, y)))
    assert set(given) == set(arguments)
    for key, want in arguments.items():
        if want and key in ("times", "plus"):
            assert given[key].name.strip("l_") == want
        elif key not in ("times", "plus"):
            assert given[key] == want
    assert calls(gm)[-1].startswith("lowbit.linear_s8s8")
    # Rounding of the rows may move a code by one: 1/127 of a row's largest element, in a few of K places.
    assert (fused - plain).abs().max() <= 0.02 * plain.abs().max()


def test_what_lies_between_is_not_rounded() -> None:
    linear = nn.Linear(K, 64, dtype=torch.bfloat16)
    plain, fused, (given,), _ = run(lambda x, y: linear(rms(x, GAIN.bfloat16())), torch.bfloat16)
    assert given["prologue"] == "rms_norm"
    assert fused.dtype is plain.dtype is torch.bfloat16
    exact = rms(X.bfloat16().double().float(), GAIN.bfloat16().float()) @ linear.weight.float().t() + linear.bias.float()
    assert (fused.float() - exact).norm() <= 1.05 * (plain.float() - exact).norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_eps_that_is_not_given_is_torchs(dtype: torch.dtype) -> None:
    """It shows in small rows; in half types torch takes float32's."""
    linear = nn.Linear(K, 64, dtype=dtype)
    fn = lambda x, y: linear(F.rms_norm(x * 1e-3, (K,)))
    plain, fused, (given,), _ = run(fn, dtype)
    assert given["prologue"] == "rms_norm"
    assert (fused - plain).abs().max() <= 0.03 * plain.abs().max()


def test_one_row_without_leading_dimensions() -> None:
    _, ctx, want, (got,) = before_and_after(lambda x: LINEAR(rms(x, GAIN)), (X[0, 0],), "prologue")
    assert [site.became.prologue for site in ctx.planned()] == ["rms_norm, times"]
    assert (got - want[0]).abs().max() <= 0.05 * got.abs().max()


def test_output_keeps_its_dtype() -> None:
    """The source is wider than what the product read."""
    linear = nn.Linear(K, 64, dtype=torch.bfloat16)
    _, fused, (given,), _ = run(lambda x, y: linear(F.silu(x).bfloat16()))
    assert given["prologue"] == "silu"
    assert fused.dtype is torch.bfloat16


def read_twice(x: Tensor, y: Tensor) -> Any:
    h = F.silu(x)
    return LINEAR(h), h.sum()


def inner_read_twice(x: Tensor, y: Tensor) -> Any:
    h = F.silu(x)
    return LINEAR(h * y), h


def two_products(x: Tensor, y: Tensor) -> Any:
    h = F.gelu(x)
    return LINEAR(h), F.linear(h + 1, LINEAR.weight)


def source_written(x: Tensor, y: Tensor) -> Any:
    x = x.clone()
    h = F.silu(x)
    x.zero_()
    return LINEAR(h), x


def in_place(x: Tensor, y: Tensor) -> Any:
    x = x + 1
    return LINEAR(F.silu(x, inplace=True)), x


def factor_is_the_activation(x: Tensor, y: Tensor) -> Any:
    h = F.silu(x)
    return LINEAR(h.double().float() * h)


def mean_read_twice(x: Tensor, y: Tensor) -> Any:
    mean = x.pow(2).mean(-1, keepdim=True)
    return LINEAR(x * torch.rsqrt(mean + 1e-6)), mean


KEPT: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "another reader": read_twice,
    "another reader inside": inner_read_twice,
    "another product": two_products,
    "source written": source_written,
    "in place": in_place,
    "mean read twice": mean_read_twice,
    "times itself": factor_is_the_activation,
    "gate of one row": lambda x, y: LINEAR(F.silu(x) * y[:1]),
    "source of one row": lambda x, y: LINEAR(F.silu(x[:1]) * y),
    "another norm's input": lambda x, y: LINEAR(x * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)),
    "mean over rows": lambda x, y: LINEAR(x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)),
    "cube": lambda x, y: LINEAR(x * torch.rsqrt(x.pow(3).abs().mean(-1, keepdim=True) + 1e-6)),
    "norm of two dimensions": lambda x, y: LINEAR(F.layer_norm(x, (3, K))),
    "another activation": lambda x, y: LINEAR(torch.sigmoid(x)),
}


@pytest.mark.parametrize("name", KEPT)
def test_kept(name: str) -> None:
    plain, fused, given, _ = run(KEPT[name])
    assert not any(given)
    for a, b in zip(*(out if isinstance(out, tuple) else (out,) for out in (plain, fused)), strict=True):
        assert torch.equal(a, b)


WHY = {
    "another reader": "%h has other readers",
    "another reader inside": "%h has other readers",
    "another product": "%h has other readers",
    "source written": "%x is written to in place",
    "in place": "silu writes in place",
    "mean read twice": "%mean has other readers",
    "times itself": "%h has other readers",
    "gate of one row": "silu times %getitem, which is broadcast",
    "source of one row": "silu times %l_y_, which is broadcast",
    "another norm's input": "%mul is scaled by the mean of something else",
    "mean over rows": "%mean is no mean over the last dimension that keeps it",
    "cube": "%mean is no mean of squares",
    "norm of two dimensions": "layer_norm over (3, 96), more than the last dimension",
    "another activation": "",
}


@pytest.mark.parametrize("name", WHY)
def test_why_it_was_kept(name: str) -> None:
    """The report says it of what looks like a prologue, and of nothing else."""
    _, ctx, *_ = before_and_after(KEPT[name], (X, Y), "prologue")
    first, *others = (site.became.no_prologue for site in ctx.planned())
    assert first == WHY[name]
    assert not any(others)


def test_norm_of_merged_siblings() -> None:
    other = nn.Linear(K, 32)

    def attention(x: Tensor, y: Tensor) -> Any:
        h = F.rms_norm(x, (K,), GAIN, 1e-6)
        return LINEAR(h), other(h), x + y

    _, _, given, _ = run(attention)
    assert [arguments["prologue"] for arguments in given] == ["rms_norm", "rms_norm"]  # two sites, one product
