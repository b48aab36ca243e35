"""free_weights=True releases float weights one after the other, and says so where that leaves nothing to fall back to."""

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed

import lowbit_compiler
from helpers.compiled import compiled, cosine, reports_of
from lowbit_compiler.capture.export import capture_export
from lowbit_compiler.compile import executable, finish, prepared
from lowbit_compiler.errors import WeightFreedError
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
    compute, free, compile_remainder = prepared.compute, weights.free, finish.compile_remainder

    def computing(graph: Any, *sources: Tensor) -> Any:
        events.append(("pack", names_of(model, sources)))
        return compute(graph, *sources)

    def freeing(tensor: Tensor) -> int:
        events.append(("free", names_of(model, [tensor])))
        return free(tensor)

    def compiling(*args: Any) -> Any:
        events.append(("compile", ()))
        return compile_remainder(*args)

    monkeypatch.setattr(prepared, "compute", computing)
    monkeypatch.setattr(executable, "free", freeing)
    monkeypatch.setattr(finish, "compile_remainder", compiling)
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
        ("free", ("up",)),  # packed for both readers of its memory
        ("compile", ()),
    ]
    assert "free_weights released 0.1 MB" in report.notes[0]


@pytest.mark.parametrize("failing", [1, 3])
def test_packing_fails(monkeypatch: pytest.MonkeyPatch, model: nn.Module, failing: int) -> None:
    """Before anything is released the graph falls back to float; afterwards only an error is honest."""
    compute, calls = prepared.compute, []

    def breaking(graph: Any, *sources: Tensor) -> Any:
        calls.append(graph)
        if len(calls) == failing:
            raise MemoryError("no memory, on purpose")
        return compute(graph, *sources)

    monkeypatch.setattr(prepared, "compute", breaking)
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

    monkeypatch.setattr(finish, "compile_remainder", failing)
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


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


def freed() -> tuple[nn.Module, Tensor]:
    """Return a model that has run with free_weights, and its input."""
    model, x = nn.Sequential(Layer(), Layer()).eval().requires_grad_(False), torch.randn(4, 64)
    compiled(model, free_weights=True)(x)
    return model, x


def test_layers_compiled_one_by_one() -> None:
    """Dynamo takes the first layer's graph for the others, whose weights go at their first call."""
    model = nn.Sequential(*(Layer() for _ in range(4))).eval().requires_grad_(False)
    x = torch.randn(4, 64)
    want = model(x)
    for layer in model:
        layer.compile(backend="lowbit", options={"plan": "always", "remainder": "eager", "free_weights": True})
    first, second = model(x), model(x)
    assert cosine(first, want) > 0.99
    assert torch.equal(first, second)
    sizes = [parameter.untyped_storage().nbytes() for parameter in model.parameters() if parameter.dim() == 2]
    assert sizes == [0] * 8


REFUSED: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "state_dict": lambda model, x: model.state_dict(),
    "state_dict to a file": lambda model, x: torch.save(model.state_dict(keep_vars=True), io.BytesIO()),
    "torch.save": lambda model, x: torch.save(model, io.BytesIO()),
    "pickle": lambda model, x: pickle.dumps(model),
    "deepcopy": lambda model, x: copy.deepcopy(model),
    "half": lambda model, x: model.half(),
    "double": lambda model, x: model.double(),
    "explain": lambda model, x: lowbit_compiler.explain(model, x),
    "capture_export": lambda model, x: capture_export(torch.export.export(model, (x,))),
}


@pytest.mark.parametrize("use", REFUSED.values(), ids=REFUSED)
def test_refused(use: Callable[[nn.Module, Tensor], Any]) -> None:
    model, x = freed()
    with pytest.raises(WeightFreedError, match=r"free_weights=True.*load (it|the model) anew"):
        use(model, x)


def test_filling_is_refused() -> None:
    """torch wraps what goes wrong with one parameter; the sentence is in it."""
    model, _ = freed()
    with pytest.raises(RuntimeError, match=r"free_weights=True released"):
        model.load_state_dict(nn.Sequential(Layer(), Layer()).state_dict())


def test_exported_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    model, x = freed()
    with pytest.raises(WeightFreedError, match="free_weights=True"):
        lowbit_compiler.export_onnx(model, x, tmp_path / "freed.onnx")
    assert not list(tmp_path.iterdir())


def test_works_again_with_new_weights() -> None:
    model, x = freed()
    fresh = nn.Sequential(Layer(), Layer()).eval().requires_grad_(False)
    for old, new in zip(model.parameters(), fresh.parameters(), strict=True):
        old.data = new.data.clone()
    assert torch.equal(model(x), fresh(x))
    assert all(map(torch.equal, model.state_dict().values(), fresh.state_dict().values()))
    assert all(map(torch.equal, copy.deepcopy(model).parameters(), fresh.parameters()))


def test_new_weights_while_the_old_memory_lives() -> None:
    model, x = nn.Sequential(Layer(), Layer()).eval().requires_grad_(False), torch.randn(4, 64)
    kept = model.state_dict()
    run = compiled(model, free_weights=True)
    run(x)
    fresh = nn.Sequential(Layer(), Layer()).eval().requires_grad_(False)
    for old, new in zip(model.parameters(), fresh.parameters(), strict=True):
        old.data = new.data.clone()
    want = fresh(x)
    assert cosine(run(x), want) > 0.99
    assert len(kept) == 8


def test_released_by_another_graph() -> None:
    """A graph that was compiled before, without free_weights, goes on with the packed weights that both share."""
    model, inputs = nn.Sequential(Layer(), Layer()).eval().requires_grad_(False), [torch.randn(rows, 64) for rows in (4, 7)]
    first, second = compiled(model), compiled(model, free_weights=True)
    want = first(inputs[0])
    second(inputs[1])
    assert model[0].up.weight.untyped_storage().nbytes() == 0  # type: ignore[union-attr]
    assert torch.equal(first(inputs[0]), want)


class Converted(nn.Module):
    """Weights that the graph converts before its products: folded, so a new shape needs no float weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.randn(64, 64), requires_grad=False) for _ in range(2))
        self.c = nn.Parameter(torch.randn(64, 64, dtype=torch.bfloat16), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        linear = nn.functional.linear
        return linear(linear(linear(x, self.a.to(x.dtype)), self.b.detach()), self.c.float())


def test_converted_weights_in_a_new_shape() -> None:
    model = Converted()
    inputs = [torch.randn(rows, 64) for rows in (4, 7)]
    want = [model(x) for x in inputs]
    run = compiled(model, free_weights=True)
    assert cosine(run(inputs[0]), want[0]) > 0.99
    assert all(parameter.untyped_storage().nbytes() == 0 for parameter in model.parameters())
    assert cosine(run(inputs[1]), want[1]) > 0.99
