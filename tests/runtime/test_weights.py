"""The store of packed weights: what is kept, for how long, and what makes it old."""

import gc
import threading
import weakref
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from lowbit_compiler.errors import WeightFreedError
from lowbit_compiler.runtime import weights
from lowbit_compiler.runtime.fingerprint import Place, Places
from lowbit_compiler.runtime.weights import Watch, WeightStore, free


class Doubled:
    """Computes twice the weight, and counts how often."""

    def __init__(self) -> None:
        self.store, self.calls = WeightStore(), 0

    def __call__(self, weight: Tensor) -> Tensor:
        (value,) = self.store.get("doubled", self._compute, [weight])
        return value

    def _compute(self, weight: Tensor) -> tuple[Tensor, ...]:
        self.calls += 1
        return (weight * 2,)


@pytest.fixture
def doubled() -> Doubled:
    return Doubled()


def test_one_value_for_one_memory(doubled: Doubled) -> None:
    """Two parameters on the same memory share, and so does one that was made anew, as load_state_dict(assign=True) makes them."""
    memory = torch.randn(16, 16)
    first = doubled(nn.Parameter(memory))
    assert all(doubled(nn.Parameter(memory)) is first for _ in range(5))
    assert doubled.calls == 1
    assert doubled.store.nbytes() == memory.nbytes


def test_a_single_element_makes_it_old(doubled: Doubled) -> None:
    weight = nn.Parameter(torch.randn(600, 600), requires_grad=False)
    doubled(weight)
    weight.data[123, 45] += 1
    assert torch.equal(doubled(weight), weight * 2)


def test_another_view_of_the_memory(doubled: Doubled) -> None:
    weight = nn.Parameter(torch.randn(16, 16), requires_grad=False)
    doubled(weight)
    weight.data = weight.data.t()
    assert torch.equal(doubled(weight), weight * 2)


def test_it_goes_with_the_memory(doubled: Doubled) -> None:
    weight = nn.Parameter(torch.randn(16, 16), requires_grad=False)
    doubled(weight)
    weight.data = torch.randn(16, 16)
    assert doubled.store.nbytes() == 0
    doubled(weight)
    del weight
    gc.collect()
    assert doubled.store.nbytes() == 0


def test_memory_goes_while_bytes_are_counted(doubled: Doubled) -> None:
    kept = [nn.Parameter(torch.randn(16, 16), requires_grad=False) for _ in range(3)]

    class Value:
        device = torch.device("meta")

        @property
        def nbytes(self) -> int:
            kept[1:] = []
            return 7

    for weight in kept:
        doubled.store.get("value", lambda _: (Value(),), [weight])  # type: ignore[arg-type, return-value]
    del weight
    assert doubled.store.nbytes() == 3 * 7
    assert doubled.store.nbytes() == 7


def test_freed(doubled: Doubled) -> None:
    weight = nn.Parameter(torch.randn(16, 16), requires_grad=False)
    value = doubled(weight)
    assert free(weight) == 16 * 16 * 4
    assert doubled(weight) is value
    with pytest.raises(WeightFreedError, match="released by free_weights=True"):
        doubled.store.get("another", doubled._compute, [weight])


def test_the_watch_says_when_memory_goes() -> None:
    weight, dead = nn.Parameter(torch.randn(16, 16), requires_grad=False), []
    watch = Watch([weight], lambda: dead.append(True))
    assert watch.same([weight])
    weight.data = torch.randn(16, 16)
    assert dead
    assert not watch.same([weight])


@pytest.mark.parametrize(("skip", "frozen"), [(False, False), (True, False), (False, True), (True, True)])
def test_memory_is_told_apart_while_the_old_one_lives(skip: bool, frozen: bool) -> None:
    """Whatever refers to it, and whichever part of the same memory a tensor becomes; of skipped and frozen weights no write is looked at."""
    flat = torch.randn(2 * 16, 16)
    weight = nn.Parameter(flat[:16], requires_grad=False)
    watch = Watch([weight], int, [skip], frozen)
    weight.add_(1)
    assert watch.same([weight]) is (skip or frozen)
    for other in (flat[16:], torch.randn(16, 16)):
        weight.data = other
        assert not watch.same([weight])
    weight.data = flat[:16]
    assert watch.same([weight]) is (skip or frozen)


@pytest.mark.parametrize("frozen", [False, True])
def test_skipped_memory_that_has_gone_stays_gone(frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next memory may have the identity of the last."""
    monkeypatch.setattr(weights, "id", lambda _: 7, raising=False)
    weight = nn.Parameter(torch.randn(16, 16), requires_grad=False)
    watch = Watch([weight], int, [not frozen], frozen)
    assert watch.same([weight])
    weight.data = torch.randn(16, 16)
    assert not watch.same([weight])


def elsewhere(work: Callable[[], object]) -> None:
    """Do ``work`` in another thread, now."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_other_memory_while_a_watch_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, dead = nn.Parameter(torch.randn(2048, 1024), requires_grad=False), []

    def late(places: Sequence[Place]) -> Places:
        elsewhere(lambda: setattr(weight, "data", torch.zeros(2048, 1024)))
        return Places(places)

    monkeypatch.setattr(weights, "Places", late)
    watch = Watch([weight], lambda: dead.append(True))
    assert dead
    assert not watch.same([weight])


def test_released_while_a_watch_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another graph, in another thread, frees what this one is about to read."""
    weight = nn.Parameter(torch.randn(2048, 1024), requires_grad=False)
    watch, stamps = Watch([weight], int), weights._stamps

    def stamping(tensors: Sequence[Tensor]) -> object:
        seen = stamps(tensors)
        elsewhere(lambda: free(weight))
        return seen

    assert watch.same([weight])
    monkeypatch.setattr(weights, "_stamps", stamping)
    assert not watch.same([weight])


def test_watches_are_not_kept() -> None:
    watch = weakref.ref(Watch([torch.randn(16, 16)], int))
    assert watch() is None
