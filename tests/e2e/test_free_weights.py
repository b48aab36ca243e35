"""free_weights=True releases float weights one after the other, and says so where that leaves nothing to fall back to."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed

import lowbit_compiler
from helpers.compiled import compiled, cosine, reports_of
from lowbit_compiler import driver, executable
from lowbit_compiler.runtime import weights

Events = list[tuple[str, tuple[str, ...]]]


class Stack(nn.Module):
    """Two products of one input, a tied pair (one weight under two modules), and one more."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.up, self.down, self.tied = (nn.Linear(64, 64, bias=False) for _ in range(5))
        self.tied.weight.data = self.up.weight.data  # another parameter on the same memory

    def forward(self, x: Tensor) -> Tensor:
        return self.tied(torch.relu(self.down(torch.relu(self.up(torch.relu(self.q(x) + self.k(x)))))))


@pytest.fixture
def model() -> nn.Module:
    return Stack().eval().requires_grad_(False)


def names_of(model: nn.Module, tensors: Any) -> tuple[str, ...]:
    """Return the modules that own the memory of ``tensors``; the first of a tied pair."""
    owners = {parameter.untyped_storage()._cdata: name.partition(".")[0] for name, parameter in reversed(list(model.named_parameters()))}
    return tuple(owners[tensor.untyped_storage()._cdata] for tensor in tensors)


def test_one_after_the_other(monkeypatch: pytest.MonkeyPatch, model: nn.Module) -> None:
    """Each weight goes before the next is packed, shared memory with its last reader, all before the remainder is compiled."""
    events: Events = []
    compute, free, compile_remainder = executable.compute, weights.free, driver.compile_remainder

    def computing(graph: Any, *sources: Tensor) -> Any:
        events.append(("pack", names_of(model, sources)))
        return compute(graph, *sources)

    def freeing(tensor: Tensor) -> int:
        events.append(("free", names_of(model, [tensor])))
        return free(tensor)

    def compiling(*args: Any) -> Any:
        events.append(("compile", ()))
        return compile_remainder(*args)

    monkeypatch.setattr(executable, "compute", computing)
    monkeypatch.setattr(executable, "free", freeing)
    monkeypatch.setattr(driver, "compile_remainder", compiling)
    x = torch.randn(4, 64)
    want = model(x)
    got, (report,) = reports_of(lambda: compiled(model, free_weights=True)(x))
    assert cosine(got, want) > 0.99
    assert events == [
        ("pack", ("q", "k")),
        ("free", ("q",)),
        ("free", ("k",)),
        ("pack", ("up",)),
        ("pack", ("down",)),
        ("free", ("down",)),
        ("pack", ("up",)),
        ("free", ("up",)),
        ("compile", ()),
    ]
    assert "free_weights released 0.1 MB" in report.notes[0]


@pytest.mark.parametrize("failing", [1, 3])
def test_packing_fails(monkeypatch: pytest.MonkeyPatch, model: nn.Module, failing: int) -> None:
    """Before anything is released the graph falls back to float; afterwards only an error is honest."""
    compute, calls = executable.compute, []

    def breaking(graph: Any, *sources: Tensor) -> Any:
        calls.append(graph)
        if len(calls) == failing:
            raise MemoryError("no memory, on purpose")
        return compute(graph, *sources)

    monkeypatch.setattr(executable, "compute", breaking)
    x = torch.randn(4, 64)
    want = model(x)
    run = compiled(model, free_weights=True)
    if failing == 1:
        got, (report,) = reports_of(lambda: run(x))
        assert torch.equal(got, want)
        assert "on purpose" in report.fallback
    else:
        with pytest.raises(Exception, match=r"WeightFreedError: .*had released 0\.0 MB.*without free_weights: MemoryError: .*on purpose"):
            run(x)


def test_remainder_fails(monkeypatch: pytest.MonkeyPatch, model: nn.Module) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("no compiler, on purpose")

    monkeypatch.setattr(driver, "compile_remainder", failing)
    with pytest.raises(Exception, match=r"WeightFreedError: .*compiling failed.*no compiler, on purpose"):
        compiled(model, free_weights=True)(torch.randn(4, 64))


def test_a_second_graph_never_reads_what_was_freed(model: nn.Module) -> None:
    """Compiled again with the default plan it runs as before, untimed; a graph that needs a float weight raises before any code is made."""
    x = torch.randn(4, 64)
    with torch.no_grad():
        want = torch.compile(model, backend="lowbit", options={"free_weights": True})(x)
        torch._dynamo.reset()
        again = torch.compile(model, backend="lowbit")
        assert torch.equal(again(x), want)
        assert "not timed" in str(lowbit_compiler.last_report())
        torch._dynamo.reset()
        with pytest.raises(BackendCompilerFailed, match="WeightFreedError: this graph reads"):
            torch.compile(model, backend="lowbit", options={"ignore": ["down"]})(x)
