"""One compiled graph serves several modules: each has its own packed weights, shared where the memory is, and gone with it."""

import gc
import threading
from typing import Any

import pytest
import torch
from torch import nn

from helpers.compiled import compiled, cosine
from helpers.two_layers import SIZE, Model, new
from lowbit_compiler.compile import executable
from lowbit_compiler.runtime import fingerprint, weights


def counted_loads(patch: pytest.MonkeyPatch) -> list[executable.Executable]:
    """Return a list that every later load of packed weights adds its graph to."""
    loads: list[executable.Executable] = []
    load = executable.Executable.load
    patch.setattr(executable.Executable, "load", lambda self, args: (loads.append(self), load(self, args))[1])
    return loads


@pytest.mark.parametrize("options", [{"weights": "frozen"}, {"free_weights": True}], ids=str)
def test_models_in_turn_whose_memory_is_kept(options: dict[str, Any]) -> None:
    """50 models through one graph: parameters come to have the identities of dead ones, whose memory lives on in a state_dict."""
    x, kept = torch.randn(4, SIZE), []
    with torch.no_grad():
        for _ in range(50):
            model = nn.Sequential(nn.Linear(SIZE, SIZE, bias=False)).eval().requires_grad_(False)
            want = model(x)
            kept.append(model.state_dict())
            assert cosine(compiled(model, **options)(x), want) > 0.99


def test_states_of_several_modules() -> None:
    """One graph serves two models in turn without packing again, and forgets what has gone."""
    models, x = [Model().eval().requires_grad_(False) for _ in range(3)], torch.randn(4, SIZE)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        loads = counted_loads(patch)
        want = [compiled(model)(x) for model in models]
        for _ in range(3):
            assert all(torch.equal(compiled(model)(x), value) for model, value in zip(models, want, strict=True))
        assert len(loads) == 3
        (one,) = set(loads)
        assert len(one._states) == 3
        models.pop()
        gc.collect()
        assert len(one._states) == 2
        models.clear()
        gc.collect()
        assert one.packed == {}


def test_modules_on_the_same_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two replicas share packed weights and are not packed in turn; a write through one is the other's as well."""
    loads = counted_loads(monkeypatch)
    models, x = [Model().eval().requires_grad_(False) for _ in range(2)], torch.randn(4, SIZE)
    models[1].load_state_dict(models[0].state_dict(), assign=True)
    runs = [compiled(model) for model in models]
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(runs[0](x), runs[1](x))
        assert len(loads) == 2
        models[0].up.weight[3, 4] += 300  # with a version counter of its own, one element of many
        assert cosine(runs[0](x), models[0](x)) > 0.99
        (one,) = set(loads)
        assert len(one._states) == 1
        assert torch.equal(runs[1](x), runs[0](x))


def test_states_of_many_tensors_on_one_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executable, "REPLICAS", 3)
    loads = counted_loads(monkeypatch)
    model, x = Model().eval().requires_grad_(False), torch.randn(4, SIZE)
    run, kept = compiled(model), []
    with torch.no_grad():
        want = run(x)
        for _ in range(6):
            kept.append(model.up.weight)
            model.up.weight = nn.Parameter(model.up.weight.data, requires_grad=False)
            assert torch.equal(run(x), want)
    assert {len(one._states) for one in loads} == {3}


def test_exchanged_memory_that_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """One state for one set of tensors, though each memory they had is kept."""
    loads = counted_loads(monkeypatch)
    model, x, kept = Model().eval().requires_grad_(False), torch.randn(4, SIZE), []
    run = compiled(model)
    with torch.no_grad():
        for _ in range(4):
            kept.append(model.up.weight.data)
            model.up.weight.data = new()
            assert cosine(run(x), model(x)) > 0.99
    assert [len(one._states) for one in loads] == [1] * 4


def test_one_thread_loads_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that has seen a write, and then waited for another call's packing, compares nothing in full again."""
    model, x = Model().eval().requires_grad_(False), torch.randn(4, SIZE)
    run, first = compiled(model), [True]
    load, content, compared = executable.Executable.load, fingerprint.content, []

    def loading(self: executable.Executable, args: Any) -> Any:
        if not first:
            return load(self, args)
        first.clear()
        other = threading.Thread(target=torch.no_grad()(run), args=(x,))
        other.start()
        other.join()
        assert compared
        compared.clear()
        return load(self, args)

    with torch.no_grad():
        run(x)
        model.up.weight.mul_(2)
        monkeypatch.setattr(executable.Executable, "load", loading)
        monkeypatch.setattr(weights, "content", lambda tensor: (compared.append(tensor), content(tensor))[1])
        assert cosine(run(x), model(x)) > 0.99
    assert not first
    assert not compared


def test_another_module_between_loading_and_calling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that calls the shared graph for its own module, wherever it comes in between, leaves a call its weights."""
    models, x = [Model().eval().requires_grad_(False) for _ in range(2)], torch.randn(4, SIZE)
    runs, between = [compiled(model) for model in models], [False]
    load = executable.Executable.load

    def loading(self: executable.Executable, args: Any) -> Any:
        state = load(self, args)
        if between[0]:
            between[0] = False
            other = threading.Thread(target=serve)
            other.start()
            other.join()
        return state

    def serve() -> None:
        with torch.no_grad():
            models[1].up.weight.neg_()
            runs[1](x)

    monkeypatch.setattr(executable.Executable, "load", loading)
    with torch.no_grad():
        for run in runs:
            run(x)
        models[0].up.weight.neg_()
        between[0] = True
        got = runs[0](x)
        assert not between[0]
        assert cosine(got, models[0](x)) > 0.99
