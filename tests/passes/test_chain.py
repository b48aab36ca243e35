"""Products that follow one another become one chain, with the sums and norms between them, and only where nobody else needs them before."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import lowbit_compiler
from helpers.graphs import before_and_after, calls, rerun
from lowbit_compiler.passes import chain as chain_pass
from lowbit_compiler.passes.chain import ChainSteps
from lowbit_compiler.passes.site import Site
from lowbit_compiler.runtime.chain import Kind, Step, decode

K = 96
torch.manual_seed(0)
A, B, WIDE, WIDER, NARROW = nn.Linear(K, K), nn.Linear(K, K), nn.Linear(K, 2 * K), nn.Linear(K, 2 * K), nn.Linear(2 * K, K)
X, Y = torch.randn(2, 3, K), torch.randn(2, 3, K)
GAIN, SHIFT = torch.rand(K) + 0.5, torch.randn(K)

Function = Callable[[Tensor, Tensor], Any]


def block(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """What lies between two attentions of a language model."""
    h = y + A(x)
    n = F.rms_norm(h, (K,), GAIN, 1e-5)
    gate, up = F.linear(n, torch.cat([WIDE.weight, B.weight])).split([2 * K, K], -1)
    h = h + B(F.silu(gate[..., :K]) * up)
    return h, A(F.layer_norm(h, (K,), GAIN, SHIFT))


def encoder(x: Tensor, y: Tensor) -> Tensor:
    """Norms with two readers, dropout that does nothing."""
    h = F.layer_norm(F.dropout(A(x), 0.1, False) + y, (K,), GAIN, SHIFT, 1e-3)
    return F.layer_norm(NARROW(F.gelu(WIDE(h))) + h, (K,), GAIN, SHIFT)


def gated(x: Tensor, y: Tensor) -> Tensor:
    gate, up = A(x), B(x)  # merged into one product, and split
    return A(F.silu(gate) * up)


def _leaves(values: Any) -> list[Tensor]:
    return tree_leaves(values)  # type: ignore[no-any-return]


def run(fn: Function, dtype: torch.dtype = torch.float32, recipe: str = "int8") -> tuple[Any, Any, list[list[Step]], Any, list[Site]]:
    """Return the outputs without and with the pass, the programs of the chains, the graph, and the sites."""
    inputs = X.to(dtype), Y.to(dtype)
    *_, plain = before_and_after(fn, inputs, "prologue", recipe)
    captured, ctx, _, chained = before_and_after(fn, inputs, "chain", recipe)
    found = [node for node in captured.gm.graph.nodes if node.target is torch.ops.lowbit.chain.default]
    assert rerun(ChainSteps(), captured, ctx) == 0
    return _leaves(plain), _leaves(chained), [decode(*node.args[2:]) for node in found], captured.gm, ctx.sites


CHAINED: dict[str, tuple[Function, list[list[Kind]]]] = {
    "two products": (lambda x, y: B(A(x)), [[Kind.PRODUCT, Kind.PRODUCT]]),
    "a product and a sum": (lambda x, y: A(x) + y, [[Kind.PRODUCT, Kind.SUM]]),
    "the other way round": (lambda x, y: y + A(x), [[Kind.PRODUCT, Kind.SUM]]),
    "a sum of a product with itself": (lambda x, y: (h := A(x)) + h, [[Kind.PRODUCT, Kind.SUM]]),
    "an activation that is read twice": (lambda x, y: (h := A(x).relu()) + B(h), [[Kind.PRODUCT, Kind.APPLY, Kind.PRODUCT, Kind.SUM]]),
    "gated": (gated, [[Kind.PRODUCT, Kind.PRODUCT]]),
    "a layer of an encoder": (
        encoder, [[Kind.PRODUCT, Kind.SUM, Kind.APPLY, Kind.PRODUCT, Kind.PRODUCT, Kind.SUM, Kind.APPLY]],
    ),
    "one result in the middle": (lambda x, y: ((h := A(x) + y), B(h)), [[Kind.PRODUCT, Kind.SUM, Kind.PRODUCT]]),
    "interleaved": (lambda x, y: B(A(x)) + A(B(y)), [[Kind.PRODUCT] * 2, [Kind.PRODUCT] * 2 + [Kind.SUM]]),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CHAINED)
def test_chains(name: str, dtype: torch.dtype) -> None:
    """Between them nothing changes: what a chain without norms of its own computes has the bits of its ops."""
    fn, kinds = CHAINED[name]
    if dtype is not torch.float32:
        fn = lowered(fn, dtype)
    plain, chained, programs, gm, sites = run(fn, dtype)
    assert [[step.kind for step in program] for program in programs] == kinds
    exact = dtype is torch.float32 or not any(step.kind == Kind.APPLY for program in programs for step in program)
    for got, want in zip(chained, plain, strict=True):
        limit = 0.0 if exact and "encoder" not in name else 64 * torch.finfo(dtype).eps * want.float().abs().max()
        assert (got.float() - want.float()).abs().max() <= limit
    assert not any(name.startswith("lowbit.linear") for name in calls(gm))
    assert {site.call for site in sites if site.plan} == {node for node in gm.graph.nodes if node.target is torch.ops.lowbit.chain.default}


@pytest.mark.parametrize("recipe", ["int4-weight-only", "int4-int8", "int8-weight-only"])
def test_any_product_is_a_step(recipe: str) -> None:
    """With the norm and the gate in front of it, whatever its weight is in."""

    def between(x: Tensor, y: Tensor) -> Tensor:
        h = y + A(x)
        n = F.rms_norm(h, (K,), GAIN, 1e-5)
        return h + NARROW(F.silu(WIDE(n)) * WIDER(n))

    plain, chained, programs, gm, _ = run(between, recipe=recipe)
    assert [[step.kind for step in program] for program in programs] == [[Kind.PRODUCT, Kind.SUM, Kind.PRODUCT, Kind.PRODUCT, Kind.SUM]]
    assert all(map(torch.equal, plain, chained))
    assert not any(name.startswith("lowbit.linear") for name in calls(gm))


def lowered(fn: Function, dtype: torch.dtype) -> Function:
    """Return ``fn`` with its layers in ``dtype``."""

    def call(x: Tensor, y: Tensor) -> Any:
        return fn(x, y)

    for layer in (A, B, WIDE, NARROW):
        layer.to(dtype)
    return call


@pytest.fixture(autouse=True)
def _float_layers() -> Any:
    yield
    for layer in (A, B, WIDE, NARROW):
        layer.float()


ALONE: dict[str, Function] = {
    "a reader in between": lambda x, y: B(A(x).sin()),
    "a broadcast sum": lambda x, y: A(x) + y[:, :1],
    "a sum with a number": lambda x, y: A(x) + 1,
    "a scaled sum": lambda x, y: torch.add(A(x), y, alpha=2),
    "a sum in another dtype": lambda x, y: A(x) + y.double(),
    "other rows": lambda x, y: B(A(x)[:, 1:]),
    "a sum first": lambda x, y: A(x + y),
    "a sum in place": lambda x, y: A(x).add_(y),
    "a result that nobody reads": lambda x, y: (F.layer_norm(A(x), (K,)), y)[1] + 1,
}


@pytest.mark.parametrize("name", ALONE)
def test_stays_alone(name: str) -> None:
    plain, chained, programs, *_ = run(ALONE[name])
    assert programs == []
    assert all(map(torch.equal, plain, chained))


def test_a_value_that_is_needed_before_ends_the_chain() -> None:
    """B reads what is computed from A's result outside: A cannot be computed as late as B."""
    plain, chained, programs, *_ = run(lambda x, y: B((h := A(x) + y) + h.sin()) + h)
    assert [[step.kind for step in program] for program in programs] == [[Kind.PRODUCT, Kind.SUM], [Kind.PRODUCT, Kind.SUM]]
    assert all(map(torch.equal, plain, chained))


def test_a_write_in_between_ends_the_chain() -> None:
    def written(x: Tensor, y: Tensor) -> Tensor:
        state = y.clone()
        h = A(x) + state
        state.mul_(2)
        return B(h + state)

    plain, chained, programs, *_ = run(written)
    assert len(programs) <= 1
    assert all(map(torch.equal, plain, chained))


def test_a_cast_to_the_type_of_a_value_is_no_view_of_it() -> None:
    plain, chained, programs, *_ = run(lambda x, y: B(h := A(x)) + y.sin().type_as(h))
    assert len(programs) == 1
    assert all(map(torch.equal, plain, chained))


def test_views_between_steps_leave_the_graph_with_them() -> None:
    """Of a value that others read too, the casts and splits that only steps read go; those that others read stay."""
    plain, chained, programs, *_ = run(lambda x, y: (B((h := A(x) + y).float()) + 0 * h.float(), h))
    assert [len(program) for program in programs] == [3]
    assert all(map(torch.equal, plain, chained))

    def other(x: Tensor, y: Tensor) -> Tensor:
        z = (A(x) + x).type_as(y)
        return B(z) + z

    plain, chained, programs, *_ = run(other)
    assert programs
    assert all(map(torch.equal, plain, chained))


def test_a_sum_keeps_the_memory_order_of_its_operands() -> None:
    """torch lays a sum out as its first operand lies."""
    plain, chained, programs, *_ = run(lambda x, y: y.mT.contiguous().mT + A(x))
    assert programs
    assert torch.equal(plain[0], chained[0])
    assert plain[0].stride() == chained[0].stride() != (3 * K, K, 1)


def test_one_row_without_a_batch_is_no_chain() -> None:
    """There a gain may be computed by a step."""
    captured, *_ = before_and_after(lambda x, y: (B(F.layer_norm((h := A(x)) + y, (K,), h, None)), h), (X[0, 0], Y[0, 0]), "chain")
    assert "lowbit.chain" not in calls(captured.gm)


def test_a_chain_that_fails_costs_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    real = chain_pass.encode

    def fails(steps: list[Step]) -> Any:
        if len(steps) == 2:
            raise ValueError("ours")
        return real(steps)

    monkeypatch.setattr(chain_pass, "encode", fails)
    with torch.no_grad():
        torch._dynamo.reset()
        got = torch.compile(
            lambda x, y: (A(x) + y).sin() + B(A(x.cos())).relu(), backend="lowbit", options={"plan": "always", "remainder": "eager"}
        )
        assert got(X, Y).shape == X.shape
    report = lowbit_compiler.last_report()
    assert not report.fallback
    assert report.rewritten


def test_a_third_result_ends_the_chain() -> None:
    """The op has two."""
    plain, chained, programs, *_ = run(lambda x, y: ((a := A(x)), (b := B(a)), A(b)))
    assert [len(program) for program in programs] == [2]
    assert all(map(torch.equal, plain, chained))


def test_sites_know_their_call_and_what_it_does_for_them() -> None:
    *_, gm, sites = run(lambda x, y: B(F.relu(A(x))))
    (call,) = {site.call for site in sites}
    assert call in gm.graph.nodes
    assert [str(site.node.target).split(".")[1] for site in sites] == ["linear_s8s8_rotated"] * 2
    assert all(site.node.graph is not gm.graph for site in sites)


def test_symbolic_rows() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(encoder, backend="lowbit", dynamic=True, options={"plan": "always", "remainder": "eager"})
    with torch.no_grad():
        for rows in (3, 7):
            x, y = torch.randn(2, rows, K), torch.randn(2, rows, K)
            got, want = compiled(x, y), encoder(x, y)
            assert (got - want).norm() < 0.02 * want.norm()
