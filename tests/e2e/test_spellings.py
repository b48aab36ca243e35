"""Every way to write a product: rewritten, or listed with a reason; never missing from the report."""

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.compiled import NATIVE, compiled, cosine, reports_of

aten = torch.ops.aten
Function = Callable[["Bench", Tensor, Tensor], Tensor]


class Bench(nn.Module):
    """Parameters of every shape that a spelling needs; ``f(self, x, x3)`` with x of 5x48 and x3 of 2x5x48."""

    def __init__(self, f: Function) -> None:
        super().__init__()
        self.f = f
        self.w, self.b, self.v = nn.Parameter(torch.randn(64, 48)), nn.Parameter(torch.randn(64)), nn.Parameter(torch.randn(48))
        self.square, self.batched = nn.Parameter(torch.randn(48, 48) / 7), nn.Parameter(torch.randn(2, 48, 64))
        self.bilinear, self.cell, self.gru = nn.Bilinear(48, 48, 7), nn.LSTMCell(48, 32), nn.GRUCell(48, 32)
        self.transposed = nn.ConvTranspose1d(5, 6, 3)

    def forward(self, x: Tensor, x3: Tensor) -> Tensor:
        return self.f(self, x, x3)


def imatmul(m: Bench, x: Tensor, x3: Tensor) -> Tensor:
    x = x.clone()
    x @= m.square
    return x


def changed_copy(m: Bench, x: Tensor, x3: Tensor) -> Tensor:
    """The weight is copied, read, written to in place, and read again."""
    w = m.w.clone()
    view = w.t()
    before = x @ view
    w.mul_(2)
    return before + x @ view


def spelled_softmax(m: Bench, x: Tensor, x3: Tensor) -> Tensor:
    e = torch.exp(x - x.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


REWRITTEN: dict[str, Function] = {
    "F.linear": lambda m, x, x3: F.linear(x, m.w, m.b),
    "F.linear by keyword": lambda m, x, x3: F.linear(input=x, weight=m.w, bias=m.b),
    "F.linear of a vector": lambda m, x, x3: F.linear(x[0], m.w, m.b),
    "@ T": lambda m, x, x3: x @ m.w.T,
    "@ mT": lambda m, x, x3: x @ m.w.mT,
    "@ H": lambda m, x, x3: x @ m.w.H,
    "@ adjoint": lambda m, x, x3: x @ m.w.adjoint(),
    "@ movedim": lambda m, x, x3: x @ m.w.movedim(0, 1),
    "weight @": lambda m, x, x3: m.w @ x.T,
    "weight @ vector": lambda m, x, x3: m.w @ x[0],
    "__rmatmul__": lambda m, x, x3: x.T.__rmatmul__(m.w),
    "@=": imatmul,
    "operator.imatmul": lambda m, x, x3: operator.imatmul(x, m.square),
    "torch.matmul": lambda m, x, x3: torch.matmul(x3, m.w.transpose(0, 1)),
    "torch.linalg.matmul": lambda m, x, x3: torch.linalg.matmul(x, m.w.t()),
    "mm": lambda m, x, x3: x.mm(m.w.t()),
    "mv": lambda m, x, x3: torch.mv(m.w, x[0]),
    "addmm": lambda m, x, x3: torch.addmm(m.b, x, m.w.t(), beta=0.5, alpha=2.0),
    "Tensor.addmm": lambda m, x, x3: m.b.addmm(x, m.w.t()),
    "einsum": lambda m, x, x3: torch.einsum("bik,ok->bio", x3, m.w),
    "einsum implicit": lambda m, x, x3: torch.einsum("bik,ok", x3, m.w),
    "einsum sublists": lambda m, x, x3: torch.einsum(x3, [0, 1, 2], m.w, [3, 2], [0, 1, 3]),
    "tensordot": lambda m, x, x3: torch.tensordot(x3, m.w, dims=([2], [1])),
    "inner": lambda m, x, x3: torch.inner(x3, m.w),
    "multi_dot": lambda m, x, x3: torch.linalg.multi_dot([x, m.square, m.w.t()]),
    "chain_matmul": lambda m, x, x3: torch.chain_matmul(x, m.square, m.w.t()),
    "aten overload": lambda m, x, x3: aten.mm.default(x, aten.t.default(m.w)),
    "aten packet": lambda m, x, x3: aten.linear(x, m.w, m.b),
    "LSTMCell": lambda m, x, x3: m.cell(x)[0],
    "GRUCell": lambda m, x, x3: m.gru(x),
    "weight sliced": lambda m, x, x3: F.linear(x[:, :40], m.w[:48, :40]),
    "weight scaled": lambda m, x, x3: F.linear(x, m.w * 0.5, m.b),
    "weight normalised": lambda m, x, x3: F.linear(x, F.normalize(m.w, dim=1)),
    "weight of two": lambda m, x, x3: x @ (m.square @ m.w.t()),
    "weight cast": lambda m, x, x3: F.linear(x.bfloat16(), m.w.to(torch.bfloat16)),
}
LISTED: dict[str, tuple[str, Function]] = {
    "vector": ("matmul", lambda m, x, x3: torch.mv(x, m.v)),
    "dot": ("matmul", lambda m, x, x3: torch.dot(x[0], m.v)),
    "vdot": ("matmul", lambda m, x, x3: torch.vdot(x[0], m.v)),
    "addmv": ("matmul", lambda m, x, x3: torch.addmv(m.b, m.w, x[0])),
    "bmm": ("matmul", lambda m, x, x3: torch.bmm(x3, m.batched)),
    "baddbmm": ("matmul", lambda m, x, x3: torch.baddbmm(m.b, x3, m.batched)),
    "addbmm": ("matmul", lambda m, x, x3: torch.addbmm(torch.zeros(5, 64), x3, m.batched)),
    "two activations": ("matmul", lambda m, x, x3: x3 @ x3.mT),
    "bilinear": ("matmul", lambda m, x, x3: m.bilinear(x, x)),
    "einsum of three": ("matmul", lambda m, x, x3: torch.einsum("bi,oij,bj->bo", x, m.bilinear.weight, x)),
    "einsum that sums one": ("matmul", lambda m, x, x3: torch.einsum("ok,bik->bo", m.w, x3)),
    "addmm_": ("matmul", lambda m, x, x3: torch.zeros(5, 64).addmm_(x, m.w.t())),
    "baddbmm_": ("matmul", lambda m, x, x3: torch.zeros(2, 5, 64).baddbmm_(x3, m.batched)),
    "mm out=": ("matmul", lambda m, x, x3: torch.mm(x, m.w.t(), out=torch.empty(5, 64))),
    "matmul out=": ("matmul", lambda m, x, x3: torch.matmul(x3, m.w.t(), out=torch.empty(2, 5, 64))),
    "aten out": ("matmul", lambda m, x, x3: aten.mm.out(x, m.w.t(), out=torch.empty(5, 64))),
    "_int_mm": (
        "matmul",
        lambda m, x, x3: torch._int_mm(torch.ones(32, 32, dtype=torch.int8), torch.ones(32, 32, dtype=torch.int8)) + x.sum(),
    ),
    "float64": ("linear", lambda m, x, x3: F.linear(x.double(), m.w.double())),
    "changed copy": ("matmul", changed_copy),
    "conv": ("convolution", lambda m, x, x3: F.conv1d(x3, m.batched[:, :5, :3])),
    "conv same": ("convolution", lambda m, x, x3: F.conv1d(x3, m.batched[:, :5, :3], padding="same")),
    "conv transpose": ("convolution", lambda m, x, x3: m.transposed(x3)),
    "aten convolution": ("convolution", lambda m, x, x3: aten.convolution(x3, m.batched[:, :5, :3], None, [1], [0], [1], False, [0], 1)),
    "softmax, wide": ("softmax", lambda m, x, x3: x.softmax(-1, dtype=torch.float64)),
    "cross entropy": ("softmax", lambda m, x, x3: F.cross_entropy(x, torch.zeros(5, dtype=torch.long))),
}
WHOLE: dict[str, tuple[str, Function]] = {
    "softmax": ("softmax", lambda m, x, x3: F.softmax(x, dim=1)),
    "softmin": ("softmax", lambda m, x, x3: F.softmin(x, -1)),
    "special.softmax": ("softmax", lambda m, x, x3: torch.special.softmax(x, -1)),
    "log_softmax": ("softmax", lambda m, x, x3: x.log_softmax(-1)),
    "softmax, dimension guessed": ("softmax", lambda m, x, x3: F.softmax(x)),
    "attention": ("attention", lambda m, x, x3: F.scaled_dot_product_attention(x3, x3, x3, is_causal=True)),
    "softmax, spelled": ("softmax", spelled_softmax),
    "attention, spelled": ("attention", lambda m, x, x3: (x3 @ x3.mT / 7).softmax(-1) @ x3),
}
OTHERS: dict[str, Function] = {
    "cumsum": lambda m, x, x3: x.cumsum(0),
    "fft": lambda m, x, x3: torch.fft.fft(x).real,
    "solve": lambda m, x, x3: torch.linalg.solve(m.square, x.T),
    "embedding bag": lambda m, x, x3: F.embedding_bag(torch.zeros(2, 2, dtype=torch.long), m.w) + x.sum(),
    "unfold": lambda m, x, x3: F.unfold(x3[:, None], (2, 2)),
    "cosine_similarity": lambda m, x, x3: F.cosine_similarity(x, m.v[None]),
}


def run(f: Function) -> tuple[Tensor, Tensor, Any]:
    model = Bench(f).eval()
    x, x3 = torch.randn(5, 48), torch.randn(2, 5, 48)
    with torch.no_grad():
        want = model(x, x3)
        got, (report,) = reports_of(lambda: compiled(model)(x, x3))
    assert not report.fallback
    assert got.dtype is want.dtype
    assert got.shape == want.shape
    return got, want, report


@pytest.mark.parametrize("name", REWRITTEN)
def test_rewritten(name: str) -> None:
    got, want, report = run(REWRITTEN[name])
    assert cosine(got, want) > 0.99
    assert all(site.decision == "rewritten" or "parameters alone" in site.detail for site in report.sites)
    assert report.rewritten


@pytest.mark.parametrize("name", LISTED)
def test_listed(name: str) -> None:
    kind, f = LISTED[name]
    got, want, report = run(f)
    torch.testing.assert_close(got, want)
    assert kind in [site.kind for site in report.sites]
    for site in report.sites:
        assert site.decision == "declined"
        assert site.reason
        assert site.detail


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("name", WHOLE)
def test_whole(name: str) -> None:
    """A softmax or an attention is one op, close to the float model's."""
    kind, f = WHOLE[name]
    got, want, report = run(f)
    torch.testing.assert_close(got, want)
    decisions = {site.kind: site.decision for site in report.sites}
    if NATIVE:
        assert decisions == {kind: "rewritten"}
    else:
        assert "rewritten" not in decisions.values()


@pytest.mark.parametrize("name", OTHERS)
def test_no_product(name: str) -> None:
    """Unknown functions break nothing."""
    got, want, report = run(OTHERS[name])
    torch.testing.assert_close(got, want)
    assert not report.sites
