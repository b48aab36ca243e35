"""Readers of memory get what the model's own op gives them; readers of elements cost no copy."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.compiled import compiled, cosine
from helpers.graphs import TwoLinears, before_and_after, calls, capture, context, run_until
from lowbit_compiler.passes.graph import fake_mode


@torch.library.custom_op("lowbit_tests::first", mutates_args=())
def first(x: Tensor, rows: int) -> Tensor:
    """Return the first rows of ``x`` as a kernel finds them that is given an address."""
    return torch.as_strided(x, (rows, x.shape[-1]), (x.shape[-1], 1)).clone()


@first.register_fake
def _(x: Tensor, rows: int) -> Tensor:
    return x.new_empty(rows, x.shape[-1])


def _windows(q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
    return q.as_strided((3, 4, 64), (128, 64, 1)).sum(1), k.as_strided((3, 32), (32, 1), 32)


def _windows_of_a_view(q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
    return q.view(2, 4, 64).transpose(0, 1).as_strided((5, 64), (64, 1)), k.relu_().as_strided((4, 32), (64, 1))


def _somebodys_op(q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
    return torch.ops.lowbit_tests.first(q, 5), torch.ops.lowbit_tests.first(k[2:], 3)


def _resized(q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
    return q.clone().sum(0), k.t_() * 2


def _parts(q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
    left, right = q.chunk(2, -1)
    return left.as_strided((4, 32), (64, 1)), right + k.split(16, -1)[1].sum()


READERS = [_windows, _windows_of_a_view, _somebodys_op, _resized, _parts]


@pytest.mark.parametrize("recipe", ["int8", "llm-int8", "int8-weight-only", "int4-weight-only"])
@pytest.mark.parametrize("reader", READERS)
def test_readers_of_memory(reader: Callable[..., Any], recipe: str) -> None:
    model = TwoLinears().requires_grad_(False)
    with torch.no_grad():
        x = torch.randn(8, 96)
        want = reader(model.q(x), model.k(x))
        got = compiled(lambda x: reader(model.q(x), model.k(x)), recipe)(x)
    for a, b in zip(got, want, strict=True):
        assert a.stride() == b.stride()
        assert cosine(a, b) > 0.97  # int4 of 96 random weights a row; another memory gives 0


def _heads(q: Tensor, k: Tensor) -> Tensor:
    q, k = q.view(2, 4, 2, 32).transpose(1, 2), k.view(2, 4, 1, 32).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, k, enable_gqa=True).transpose(1, 2).reshape(8, 64)


def _cached(q: Tensor, k: Tensor) -> Tensor:
    cache = torch.zeros(2, 32)
    cache.index_copy_(0, torch.tensor([1]), k[:1])
    return torch.cat([cache, k]) @ torch.cat([q, q.softmax(-1)])[:, :32].mT


def _written_in_place(q: Tensor, k: Tensor) -> Tensor:
    return q.mul_(0.5).sigmoid() + k.sum(-1, keepdim=True)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("reader", [_heads, _cached, _written_in_place])
def test_readers_of_elements_cost_no_copy(reader: Callable[..., Any], dynamic: bool) -> None:
    model = TwoLinears()
    if dynamic and reader is _heads:
        pytest.skip("the view fixes the sizes")
    captured, _ = capture(lambda x: reader(model.q(x), model.k(x)), torch.randn(8, 96), dynamic=dynamic or None)
    run_until(captured, context(captured), "merge")
    assert "aten.split_with_sizes" in calls(captured.gm)
    assert "aten.clone" not in calls(captured.gm)


def test_heads_of_symbolic_length_cost_no_copy() -> None:
    model = TwoLinears()

    def fn(x: Tensor) -> Tensor:
        batch, length = x.shape[:2]
        q = model.q(x).view(batch, length, 2, 32).transpose(1, 2)
        k = model.k(x).view(batch, length, 1, 32).transpose(1, 2)
        return F.scaled_dot_product_attention(q, k.expand(-1, 2, -1, -1), q).transpose(1, 2).reshape(batch, length, -1)

    captured, _ = capture(fn, torch.randn(3, 5, 96), dynamic=True)
    run_until(captured, context(captured), "merge")
    assert "aten.split_with_sizes" in calls(captured.gm)
    assert "aten.clone" not in calls(captured.gm)


def test_a_single_row_shares_no_memory_either() -> None:
    """A view of one row is contiguous: only a copy has a storage of its own."""
    model = TwoLinears()
    _, _, want, got = before_and_after(lambda x: (model.q(x), model.k(x)), (torch.randn(1, 96),), "merge")
    for a, b in zip(got, want, strict=True):
        assert (a.stride(), a.storage_offset(), a.untyped_storage().nbytes()) == (
            b.stride(),
            b.storage_offset(),
            b.untyped_storage().nbytes(),
        )


def _softmax(x: Tensor) -> Tensor:
    e = (x - x.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


W = nn.Parameter(torch.randn(64, 64))
ORDERS: dict[str, Callable[[Tensor], Tensor]] = {
    "einsum that turns": lambda x: torch.einsum("btc,cd->dtb", x, W),
    "constant from the left": lambda x: W[:8, :8] @ x,
    "softmax of a transpose": lambda x: x.transpose(1, 2).softmax(-1),
    "written softmax of a transpose": lambda x: _softmax(x.mT),
    "attention": lambda x: F.scaled_dot_product_attention(*(x.view(2, 8, 4, 16).transpose(1, 2),) * 3),
    "written attention": lambda x: (x @ x.mT).softmax(-1) @ x,
    "linear of a transpose": lambda x: F.linear(x.reshape(2, 64, 8).transpose(1, 2), W),
}  # fmt: skip


@pytest.mark.parametrize("name", ORDERS)
def test_results_lie_as_the_models_do(name: str) -> None:
    x = torch.randn(2, 8, 64)
    with torch.no_grad():
        want, got = ORDERS[name](x), compiled(ORDERS[name])(x)
    assert (got.stride(), got.storage_offset(), got.untyped_storage().nbytes()) == (want.stride(), 0, want.untyped_storage().nbytes())
    assert cosine(got, want) > 0.99


class _WrittenThroughAView(nn.Module):
    """A product that is spelled otherwise and has a sibling; somebody writes to a flat view of it between two readers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 96) / 96**0.5)
        self.sibling, self.after = nn.Linear(96, 64, bias=False), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("btc,dc->btd", x, self.weight)
        before = self.after(y)
        y.flatten(1).mul_(-3)
        return self.after(y) - before + self.sibling(x)


def test_a_write_through_a_view_of_a_merged_product() -> None:
    model, x = _WrittenThroughAView().requires_grad_(False), torch.randn(2, 3, 96)
    with torch.no_grad():
        assert cosine(compiled(model, "int8-weight-only")(x), model(x)) > 0.999


@pytest.mark.parametrize("view", [lambda y: y.view(-1, 32), lambda y: y.flatten(0, 1), lambda y: y.view(-1)])
def test_views_of_part_of_a_wider_product(view: Callable[[Tensor], Tensor]) -> None:
    """Whether strides allow a view is not asked of torch's fakes, which take some that the real one refuses where a size is 1."""
    a, b, x = nn.Linear(64, 64).requires_grad_(False), nn.Linear(64, 32).requires_grad_(False), torch.randn(5, 1, 64)

    def fn(x: Tensor) -> tuple[Tensor, Tensor]:
        return view(a(x)) * 2, b(x) * 2

    for got, want in zip(compiled(fn)(x), fn(x), strict=True):
        assert got.shape == want.shape
        assert cosine(got, want) > 0.99


def test_trials_leave_no_sizes_behind() -> None:
    """What nonzero finds has a size of its own at each trial; Inductor must not look for those of ours in the graph."""
    model = TwoLinears()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        captured, _ = capture(lambda x: model.q(x).nonzero().sum() + model.k(x).sum(), torch.randn(8, 96))
    run_until(captured, context(captured), "merge")
    assert "aten.split_with_sizes" in calls(captured.gm)
    assert not fake_mode(captured.gm).shape_env.pending_fresh_unbacked_symbols
