"""What a compilation does beside its passes: Inductor's questions to the machine are asked early, and old objects are no garbage to search."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from lowbit_compiler.compile import driver
from lowbit_compiler.errors import LowbitError
from lowbit_compiler.torch_internals import inductor


def compile_one(remainder: str) -> None:
    torch.compiler.reset()
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh()).requires_grad_(False)
    torch.compile(model, backend="lowbit", options={"remainder": remainder, "plan": "always"})(torch.randn(3, 64))


@pytest.mark.parametrize(("remainder", "times"), [("inductor", 1), ("eager", 0)])
def test_inductor_is_asked_beside_the_passes(monkeypatch: pytest.MonkeyPatch, remainder: str, times: int) -> None:
    order: list[str] = []
    monkeypatch.setattr(inductor, "probe", lambda: order.append("probe"))
    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", lambda gm, *_, **__: order.append("compile") or gm.forward)
    compile_one(remainder)
    assert order == ["probe", "compile"] * times


@pytest.fixture
def frozen_by_the_user() -> Iterator[int]:
    gc.freeze()
    yield gc.get_freeze_count()
    gc.unfreeze()


def watch(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> list[int]:
    """Return a list that will have the number of frozen objects in the middle of each compilation, which then fails with ``error``."""
    seen: list[int] = []
    usual = driver.compile_places

    def compile_places(*args: Any) -> Any:
        seen.append(gc.get_freeze_count())
        if error is not None:
            raise error
        return usual(*args)

    monkeypatch.setattr(driver, "compile_places", compile_places)
    return seen


@pytest.mark.parametrize("error", [None, ValueError("left in float"), LowbitError("left in float")])
def test_old_objects_are_frozen_while_a_graph_is_compiled(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    seen = watch(monkeypatch, error)
    compile_one("eager")
    assert seen[0] > 0
    assert gc.get_freeze_count() == 0


def test_what_is_frozen_meanwhile_stays_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = driver.compile_places
    monkeypatch.setattr(driver, "compile_places", lambda *args: (gc.freeze(), usual(*args))[1])
    compile_one("eager")
    assert gc.get_freeze_count() > 0
    gc.unfreeze()


def test_what_the_user_froze_stays_frozen(monkeypatch: pytest.MonkeyPatch, frozen_by_the_user: int) -> None:
    seen = watch(monkeypatch)
    compile_one("eager")
    assert 0 < gc.get_freeze_count() <= seen[0] <= frozen_by_the_user  # some have gone since
