"""Random models of fixed seeds under every recipe; ``make fuzz`` runs as many as are asked for."""

import logging
from collections.abc import Iterator

import pytest
import torch
from fuzz import check as check_module
from fuzz.check import check
from fuzz.models import random_case

from lowbit_compiler.passes import graph, layout, merge, runner

SPOILED = {"marks": 19, "memory": 25, "order": 18}
"""Seeds whose models have what a test spoils."""
QUICK, MORE = range(20), range(20, 80)  # make fuzz runs 200


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("lowbit_compiler", "torch._subclasses.fake_tensor")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.mark.parametrize("seed", [*QUICK, *(pytest.param(seed, marks=pytest.mark.model) for seed in MORE)])
def test_random_model(seed: int) -> None:
    case = random_case(seed)
    result = check(case)
    assert result.graphs >= 1, case.source
    assert not result.problems, "\n".join([case.title, *result.problems, case.source])


def test_one_seed_is_one_model() -> None:
    a, b = random_case(3), random_case(3)
    assert a.source == b.source
    assert all(map(torch.equal, a.inputs, b.inputs))
    assert all(torch.equal(p, q) for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True))


def _found(seed: int) -> list[str]:
    return check(random_case(seed), ("int8",)).problems


def test_sees_a_pass_that_loses_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "mark_memory", lambda node: None)
    assert any("is not marked as written" in problem for problem in _found(SPOILED["marks"]))
    monkeypatch.setattr(runner, "unmarked", lambda gm: None)
    assert any("moves by" in problem for problem in _found(SPOILED["marks"]))


@pytest.mark.parametrize(("seed", "problem"), [("memory", "moves by"), ("order", "has strides")])
def test_sees_memory_of_another_kind(monkeypatch: pytest.MonkeyPatch, seed: str, problem: str) -> None:
    monkeypatch.setattr(layout, "_accepts", lambda *_: True)
    assert any(problem in found for found in _found(SPOILED[seed]))


def test_sees_an_error_in_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise KeyError("on purpose")

    monkeypatch.setattr(merge, "laid_out", fails)
    assert any("internal error" in problem and "KeyError" in problem for problem in _found(SPOILED["memory"]))


def test_sees_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    rotated = torch.ops.lowbit.linear_s8s8_rotated.default
    monkeypatch.setattr(check_module, "low", lambda n, args, kwargs: n.target(*args, **kwargs) * (1.1 if n.target is rotated else 1))
    assert any("of its certificate" in problem for problem in _found(SPOILED["order"]))
