"""Each softmax and attention gets a plan or a reason, and a planned one becomes one op with what folds into it."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.compiled import NATIVE, compiled, reports_of
from helpers.graphs import before_and_after, calls, capture, context, run_until
from lowbit_compiler.passes.calls import AttentionCall, Cost, SoftmaxCall
from lowbit_compiler.passes.contract import PassContext, Target
from lowbit_compiler.passes.site import Reason
from lowbit_compiler.runtime import library

ops = torch.ops.lowbit
torch.manual_seed(0)
X = torch.randn(2, 4, 9, 17)
KEEP = torch.rand(2, 1, 9, 17) > 0.3
KEEP[..., 0], KEEP[..., 1] = True, False  # no row is hidden, whichever way it is read
ADDED = torch.randn(9, 17)
Q, K, V = torch.randn(2, 4, 9, 16), torch.randn(2, 2, 17, 16), torch.randn(2, 2, 17, 8)


def lower(fn: Callable[..., Any], *inputs: Tensor, **options: Any) -> tuple[Any, PassContext, Tensor, Tensor]:
    captured, ctx, want, got = before_and_after(fn, inputs, "lower-whole", **options)
    return captured.gm, ctx, want[0], got[0]


def only(gm: Any, op: Any) -> Any:
    (node,) = (node for node in gm.graph.nodes if node.target is op.default)
    return node


SOFTMAX: dict[str, tuple[Callable[..., Tensor], Tensor, tuple[Any, ...], int]] = {
    # function, input, (dim, scale, has mask, log, dtype), calls left
    "plain": (lambda x: x.softmax(-1), X, (3, 1.0, False, False, None), 1),
    "another dim": (lambda x: torch.softmax(x, 1), X, (1, 1.0, False, False, None), 1),
    "log": (lambda x: F.log_softmax(x, 2), X, (2, 1.0, False, True, None), 1),
    "scaled": (lambda x: (x * 0.25).softmax(-1), X, (3, 0.25, False, False, None), 1),
    "scaled twice": (lambda x: (0.5 * x / 2).softmax(-1), X, (3, 0.25, False, False, None), 1),
    "added": (lambda x: (x * 0.5 + ADDED).softmax(-1), X, (3, 0.5, True, False, None), 1),
    "added, first": (lambda x: (ADDED + x).softmax(-1), X, (3, 1.0, True, False, None), 1),
    "filled with -inf": (lambda x: (x / 4).masked_fill(~KEEP, -math.inf).softmax(-1), X, (3, 0.25, True, False, None), 3),
    "where": (lambda x: torch.where(KEEP, x, -math.inf).softmax(-1), X, (3, 1.0, True, False, None), 1),
    "where, the other way": (lambda x: torch.where(KEEP, -math.inf, x).softmax(-1), X, (3, 1.0, True, False, None), 2),
    "upcast": (lambda x: (x * 2).float().softmax(-1).to(x.dtype), X.bfloat16(), (3, 2.0, False, False, None), 1),
    "dtype": (lambda x: F.softmax(x, -1, dtype=torch.float32), X.bfloat16(), (3, 1.0, False, False, torch.float32), 1),
    "dtype and back": (lambda x: F.softmax(x, -1, dtype=torch.float32).to(x.dtype), X.half(), (3, 1.0, False, False, None), 1),
    "scaled after the mask": (lambda x: ((x + ADDED) * 0.5).softmax(-1), X, (3, 0.5, False, False, None), 2),
    "written in place": (lambda x: (x * 2).add_(ADDED).softmax(-1), X, (3, 2.0, True, False, None), 1),
}


@pytest.mark.parametrize("case", SOFTMAX)
def test_softmax(case: str) -> None:
    fn, x, (dim, scale, masked, log, dtype), left = SOFTMAX[case]
    gm, ctx, want, got = lower(fn, x)
    node = only(gm, ops.softmax)
    given = dict(zip(("dim", "scale", "mask", "log", "dtype"), node.args[1:], strict=False))
    assert (given.pop("dim"), given.pop("mask", None) is not None) == (dim, masked)
    assert {"scale": 1.0, "log": False, "dtype": None} | given == {"scale": scale, "log": log, "dtype": dtype}
    assert len(node.args) == (2 if given == {} else 2 + max(i for i, one in enumerate((True, masked, log, dtype), 1) if one))
    assert len(calls(gm)) == left
    assert got.dtype is want.dtype
    exact = fn(x.double()).float() if x.dtype is not torch.float32 else fn(x.double())
    exact = exact if exact.is_floating_point() else want
    torch.testing.assert_close(got.double(), exact.double(), rtol=8 * torch.finfo(want.dtype).eps, atol=8 * torch.finfo(want.dtype).eps)
    (site,) = (site for site in ctx.sites if site.kind == "softmax")
    assert (site.decision, site.lowered_to, site.node) == ("rewritten", "softmax", node)


def test_finite_fill_keeps_a_hidden_row_uniform() -> None:
    hidden = torch.zeros(9, 17, dtype=torch.bool)
    hidden[3] = True
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = X.to(dtype)
        _, _, want, got = lower(lambda x: x.masked_fill(hidden, torch.finfo(x.dtype).min).softmax(-1), x)
        torch.testing.assert_close(got, want)
        assert torch.equal(got[:, :, 3], torch.full_like(got[:, :, 3], 1 / 17))


def double_use(x: Tensor) -> tuple[Tensor, Tensor]:
    scaled = x * 0.5
    return scaled.softmax(-1), scaled


def read_before_write(x: Tensor) -> Tensor:
    x = x.clone()
    scaled = x * 0.5
    x.add_(1000)
    return scaled.softmax(-1)


@pytest.mark.parametrize("fn", [double_use, read_before_write])
def test_what_others_see_stays(fn: Callable[..., Any]) -> None:
    gm, _, want, got = lower(fn, X.clone())
    assert len(only(gm, ops.softmax).args) == 2  # x and dim; no scale
    torch.testing.assert_close(got, want)


def test_input_written_in_place() -> None:
    def fn(x: Tensor) -> Tensor:
        return x.mul_(0.5).softmax(-1)

    captured, _ = capture(fn, X.clone())
    run_until(captured, context(captured))
    assert calls(captured.gm) == ["mul_", "lowbit.softmax"]


def repeat_kv(x: Tensor, n: int = 2) -> Tensor:
    b, g, s, e = x.shape
    return x[:, :, None, :, :].expand(b, g, n, s, e).reshape(b, g * n, s, e)


ATTENTION: dict[str, tuple[Callable[..., Tensor], int]] = {
    "grouped": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), 2),
    "repeat_kv": (lambda q, k, v: F.scaled_dot_product_attention(q, repeat_kv(k), repeat_kv(v), scale=0.3), 2),
    "repeat_interleave": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k.repeat_interleave(2, dim=1), torch.repeat_interleave(v, 2, 1)),
        2,
    ),
    "unsqueeze": (
        lambda q, k, v: F.scaled_dot_product_attention(
            q, *(x.unsqueeze(2).expand(-1, -1, 2, -1, -1).reshape(2, 4, 17, -1).contiguous() for x in (k, v))
        ),
        2,
    ),
    "repeated the other way": (lambda q, k, v: F.scaled_dot_product_attention(q, k.repeat(1, 2, 1, 1), v.repeat(1, 2, 1, 1)), 4),
    "only keys repeated": (lambda q, k, v: F.scaled_dot_product_attention(q, repeat_kv(k), torch.cat([v, v], 1)), 4),
    "mask": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, KEEP, enable_gqa=True), 2),
    "float mask": (lambda q, k, v: F.scaled_dot_product_attention(q, repeat_kv(k), repeat_kv(v), ADDED), 2),
    "causal": (lambda q, k, v: F.scaled_dot_product_attention(q, repeat_kv(k), repeat_kv(v), is_causal=True), 2),
    "three dimensions": (lambda q, k, v: F.scaled_dot_product_attention(q[:, 0], k[:, 0], v[:, 1]), 2),
    "viewed": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True).view(2, 36, 8), 2),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", ATTENTION)
def test_attention(case: str, dtype: torch.dtype) -> None:
    fn, heads = ATTENTION[case]
    q, k, v = (x.to(dtype) for x in (Q, K, V))
    if case == "float mask" and dtype is torch.bfloat16:
        pytest.skip("torch wants the mask in the dtype of the query")
    gm, ctx, want, got = lower(fn, q, k, v)
    node = only(gm, ops.sdpa)
    assert node.args[1].meta["val"].shape[1] == (heads if case != "three dimensions" else 2)
    assert "expand" not in calls(gm) or heads == 4
    assert got.dtype is want.dtype
    assert got.stride() == torch.empty(got.shape).stride()  # what the caller gets is dense
    exact = fn(q.double(), k.double(), v.double()) if case != "float mask" else want.double()
    bound = 32 * torch.finfo(dtype).eps * v.abs().max()
    assert ((got.double() - exact).abs() <= bound).all()
    (site,) = ctx.sites
    assert (site.decision, site.lowered_to, site.node) == ("rewritten", "sdpa", node)


DECLINED: dict[str, tuple[Callable[..., Tensor], Tensor, Reason, str]] = {
    "float64": (lambda x: x.softmax(-1), X.double(), Reason.UNSUPPORTED_DTYPE, "torch.float64"),
    "to float64": (lambda x: x.softmax(-1, dtype=torch.float64), X, Reason.UNSUPPORTED_DTYPE, "torch.float64"),
    "scalar": (lambda x: x.sum().softmax(0), X, Reason.UNSUPPORTED_OP, "0 dimensions"),
    "dropout": (lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5), X, Reason.UNSUPPORTED_OP, "dropout 0.5 is active"),
    "attention in float64": (lambda x: F.scaled_dot_product_attention(x, x, x), X.double(), Reason.UNSUPPORTED_DTYPE, "torch.float64"),
    "two dimensions": (
        lambda x: F.scaled_dot_product_attention(x[0, 0], x[0, 0], x[0, 0]), X, Reason.UNSUPPORTED_OP, "operands of shapes (9, 17)",
    ),
    "no heads": (
        lambda x: F.scaled_dot_product_attention(x[:, :0], x[:, :0], x[:, :0]), X, Reason.UNSUPPORTED_OP, "operands of shapes (2, 0, 9, 17)",
    ),
    "heads that broadcast by batch": (
        lambda x: F.scaled_dot_product_attention(x, x[:1], x[:1]), X, Reason.UNSUPPORTED_OP, "operands of shapes (2, 4, 9, 17), (1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DECLINED)
def test_declined(case: str) -> None:
    fn, x, reason, detail = DECLINED[case]
    captured, _ = capture(fn, x)
    ctx = context(captured)
    run_until(captured, ctx)
    (site,) = ctx.sites
    assert site.reason is reason
    assert detail in site.detail
    assert not any(name.startswith("lowbit") for name in calls(captured.gm))


def plan(fn: Callable[..., Any], *inputs: Tensor, target: Target | None = None, **options: Any) -> PassContext:
    captured, _ = capture(fn, *inputs)
    ctx = context(captured, **options)
    ctx.target = target or ctx.target
    run_until(captured, ctx, "plan")
    return ctx


def test_no_library() -> None:
    ctx = plan(lambda x: (x.softmax(-1), F.scaled_dot_product_attention(x, x, x)), X, target=Target(has_kernels=False))
    for site, op in zip(ctx.sites, ("softmax", "sdpa"), strict=True):
        assert (site.reason, site.detail) == (
            Reason.NO_KERNEL,
            f"the native library is not loaded, and lowbit::{op} in plain torch is slow",
        )


def test_what_cannot_be_timed_is_kept() -> None:
    def costs(call: SoftmaxCall | AttentionCall) -> Cost:
        if call.mask is None:
            raise RuntimeError("not enough memory")
        return Cost(1.0, 2.0)

    ctx = plan(lambda x: (x.softmax(-1), (x + ADDED).softmax(-1)), X, costs=costs)
    first, second = ctx.sites
    assert (first.reason, first.detail) == (Reason.NO_KERNEL, "not timed: RuntimeError: not enough memory")
    assert second.decision == "rewritten"


def test_ignored() -> None:
    ctx = plan(lambda x: x.softmax(-1), X, ignore=("re:^$",), costs=None, known_names=frozenset({""}))
    assert ctx.sites[0].reason is Reason.FILTERED


def test_slower_and_faster() -> None:
    asked: list[SoftmaxCall | AttentionCall] = []

    def costs(call: SoftmaxCall | AttentionCall) -> Cost:
        asked.append(call)
        return Cost(1.2e-3, 0.9e-3) if isinstance(call, SoftmaxCall) else Cost(0.8e-3, 1.9e-3)

    ctx = plan(
        lambda x, q, k, v: ((x * 0.5 + ADDED).softmax(-1), F.scaled_dot_product_attention(q, repeat_kv(k), repeat_kv(v))),
        X, Q, K, V, costs=costs,
    )  # fmt: skip
    softmax, attention = ctx.sites
    assert (softmax.reason, softmax.detail) == (Reason.SLOWER, "lowbit 1.2 ms, torch 900 us")
    assert (attention.decision, attention.detail) == ("rewritten", "2 query heads a key head; 2.4x torch (800 us, torch 1.9 ms)")
    first, second = asked
    assert isinstance(first, SoftmaxCall)
    assert isinstance(second, AttentionCall)
    assert (first.x.sizes, first.x.strides, first.scale, first.mask.sizes) == (X.shape, X.stride(), 0.5, ADDED.shape)  # type: ignore[union-attr]
    assert (second.k.sizes, second.repeated, second.causal) == (K.shape, True, False)


def test_symbolic_sizes_are_asked_by_their_hints() -> None:
    asked: list[Any] = []

    def costs(call: Any) -> Cost:
        asked.append(call)
        return Cost(1.0, 2.0)

    def fn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.view(x.shape[0], x.shape[1], heads, 16).transpose(1, 2) for x, heads in ((q, 4), (k, 2), (v, 2)))
        return F.scaled_dot_product_attention(q, repeat_kv(k), repeat_kv(v))

    captured, _ = capture(fn, torch.randn(2, 9, 64), torch.randn(2, 17, 32), torch.randn(2, 17, 32), dynamic=True)
    ctx = context(captured, costs=costs)
    run_until(captured, ctx)
    (call,) = asked
    assert (call.q.sizes, call.q.strides) == ((2, 4, 9, 16), (576, 16, 64, 1))
    assert call.v.sizes == (2, 2, 17, 16)
    assert only(captured.gm, ops.sdpa)


def unbacked_softmax(x: Tensor) -> Tensor:
    x = x[x[:, 0] > 0]
    return (x + x.sum(-1, True)).softmax(-1)


def unbacked_attention(x: Tensor) -> Tensor:
    x = x[x[:, 0] > 0].view(-1, 2, 8, 4)
    return F.scaled_dot_product_attention(x, x, x, (x.sum(-1, keepdim=True) > 0).expand(-1, -1, -1, 8))


@pytest.mark.skipif(not NATIVE, reason="without the native library nothing here is rewritten")
@pytest.mark.parametrize("fn", [unbacked_softmax, unbacked_attention])
def test_sizes_that_depend_on_data(fn: Callable[..., Tensor]) -> None:
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True), torch.no_grad():
        model = compiled(fn)
        for rows in (50, 41):
            x = torch.randn(rows, 64)
            got, reports = reports_of(lambda x=x: model(x))
            torch.testing.assert_close(got, fn(x))
            assert not any(report.fallback for report in reports)
            assert all(len(report.rewritten) == 1 for report in reports)


@pytest.mark.skipif(not NATIVE, reason="without the native library nothing here is rewritten")
def test_report_names_the_algorithm_of_rows_only() -> None:
    n = library.handle().lowbit_softmax_threshold() * 5 // 4  # within it from bfloat16 to float32 only: 6 bytes an element
    x = torch.zeros(2, n)

    def fn(x: Tensor) -> tuple[Tensor, ...]:
        y = x.bfloat16()
        return x.softmax(0), y.softmax(1), y.softmax(1, dtype=torch.float32), x[..., None].softmax(1)

    _, (report,) = reports_of(lambda: compiled(fn, dynamic=False)(x))
    assert [site.detail.partition(":")[0] for site in report.sites] == ["", "two-pass", "three-pass", "two-pass"]
