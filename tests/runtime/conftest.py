"""What tests of timings start from."""

from pathlib import Path

import pytest

from lowbit_compiler.runtime import timings


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give timings a folder of their own, and a machine on which all of them are kept; returns the folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(timings, "_known", {})
    monkeypatch.setattr(timings, "NOISE", 1e9)  # calls that do nothing take whatever they take
    monkeypatch.setattr(timings, "quiet", lambda: True)
    return tmp_path
