"""Every spelling of a product with a constant becomes aten.linear; what is not one stays."""

import pytest
import torch
from torch import nn

from helpers.graphs import before_and_after, calls, capture, rerun
from lowbit_compiler.passes.normalize import Normalize

torch.manual_seed(0)
W = nn.Parameter(torch.randn(48, 64))
B = nn.Parameter(torch.randn(48))
E3 = nn.Parameter(torch.randn(5, 64, 48))
X = torch.randn(7, 64)
X3 = torch.randn(2, 7, 64)

LINEAR = {
    "matmul_t": (lambda x: torch.matmul(x, W.t()), X),
    "operator_T": (lambda x: x @ W.T, X3),
    "mT": (lambda x: x.matmul(W.mT), X3),
    "transpose": (lambda x: x @ W.transpose(0, 1), X),
    "permute": (lambda x: x @ W.permute(1, 0), X),
    "mm": (lambda x: torch.mm(x, W.t()), X),
    "addmm": (lambda x: torch.addmm(B, x, W.t()), X),
    "addmm_scaled": (lambda x: torch.addmm(B, x, W.t(), beta=0.5, alpha=2), X),
    "addmm_beta_0": (lambda x: torch.addmm(B, x, W.t(), beta=0), X),
    "addmm_activation": (lambda x: torch.addmm(x[:, :48], x, W.t()), X),
    "left": (lambda x: W @ x.t(), X),
    "left_viewed": (lambda x: (W @ x.t()).view(-1), X),
    "einsum": (lambda x: torch.einsum("bsk,nk->bsn", x, W), X3),
    "einsum_dots": (lambda x: torch.einsum("...k,nk->...n", x, W), X3),
    "einsum_heads": (lambda x: torch.einsum("bsk,hdk->bhsd", x, W.view(6, 8, 64)), X3),
    "einsum_swapped": (lambda x: torch.einsum("nk,bk->bn", W, x), X),
    "einsum_two_sums": (lambda x: torch.einsum("bhd,hdn->bn", x.view(7, 8, 8), W.t().reshape(8, 8, 48)), X),
}
KEPT = {
    "activations": (lambda x: x @ x.t(), X, "matmul"),
    "batched": (lambda x: x[None].expand(5, 7, 64) @ E3, X, "matmul"),
    "einsum_batch": (lambda x: torch.einsum("ebk,ekn->ebn", x[None].expand(5, 7, 64), E3), X, "einsum"),
    "einsum_broadcast": (lambda x: torch.einsum("bk,nk->bn", x[:, :1], W), X, "einsum"),
    "einsum_diagonal": (lambda x: torch.einsum("bb,nb->bn", x[:, :7], W[:, :7]), X, "einsum"),
}


@pytest.mark.parametrize("case", LINEAR)
def test_becomes_linear(case: str) -> None:
    fn, x = LINEAR[case]
    captured, ctx, want, got = before_and_after(fn, (x,), "normalize")
    assert calls(captured.gm).count("aten.linear") == 1
    assert not {"aten.matmul", "aten.mm", "aten.addmm", "aten.einsum"} & set(calls(captured.gm))
    # the same sums in another order: K products of magnitude max|x| max|w|
    bound = 2 * torch.finfo(torch.float32).eps * 65 * x.abs().max() * W.abs().max() * 2
    assert (got[0] - want[0]).abs().max() <= bound
    assert got[0].shape == want[0].shape
    assert got[0].dtype == want[0].dtype
    assert rerun(Normalize(), captured, ctx) == 0


@pytest.mark.parametrize("case", KEPT)
def test_stays(case: str) -> None:
    fn, x, op = KEPT[case]
    captured, _, want, got = before_and_after(fn, (x,), "normalize")
    assert f"aten.{op}" in calls(captured.gm)
    assert "aten.linear" not in calls(captured.gm)
    assert torch.equal(got[0], want[0])


def test_double_transpose_cancels() -> None:
    captured, *_ = before_and_after(lambda x: x @ W.t(), (X,), "cleanup", "int8")
    assert "aten.t" not in calls(captured.gm)


def test_slices_of_all_there_is_are_dropped() -> None:
    x = torch.randn(3, 4)
    cases = {
        "all": (lambda x: x.sin()[:, 0:], 0),
        "a step of one": (lambda x: x.sin()[::1], 0),
        "a part": (lambda x: x.sin()[:, :3], 1),
        "from the second on": (lambda x: x.sin()[1:], 1),
        "a new dimension": (lambda x: x.sin()[:, None], 1),
        "a view of an input": (lambda x: x[:], 1),
    }
    for name, (fn, left) in cases.items():
        captured, inputs = capture(fn, x)
        assert calls(captured.gm).count("getitem") == left, name
        (got,) = captured.gm(*inputs)
        assert torch.equal(got, fn(x)), name
