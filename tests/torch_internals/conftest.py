"""A canary for each surface: what fails here names the file that reaches into torch, and the version that moved something there."""

import importlib
from collections.abc import Generator
from importlib.metadata import version
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def surface(request: pytest.FixtureRequest) -> ModuleType:
    """Return the module of lowbit_compiler.torch_internals that the test's file is named after."""
    return importlib.import_module(f"lowbit_compiler.torch_internals.{_surface(request.path.stem)}")


def _surface(stem: str) -> str:
    return stem.removeprefix("test_")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Say first of a failure which surface broke, and in which versions."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        where = f"lowbit_compiler/torch_internals/{_surface(item.path.stem)}.py"
        report.longrepr = f"{where} is broken in torch {version('torch')}, transformers {_transformers()}\n{report.longrepr}"


def _transformers() -> str:
    try:
        return version("transformers")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
