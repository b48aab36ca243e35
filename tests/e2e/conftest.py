"""What several of these tests start from."""

import pytest

from lowbit_compiler.options import ENVIRONMENT


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Remove what the caller's environment says of lowbit; returns what sets it within the test."""
    for name in ENVIRONMENT:
        if name not in ("LOWBIT_NATIVE", "LOWBIT_ISA", "LOWBIT_LIBRARY"):  # these choose what the whole suite runs on
            monkeypatch.delenv(name, raising=False)
    return monkeypatch
