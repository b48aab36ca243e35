"""The energy that benchmarks report is the counters', through their overflow, and nothing where there is none."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))
import energy


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(energy, "_gpus", list)
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):  # two packages, and a part of the first
        (tmp_path / name).mkdir()
        (tmp_path / name / "max_energy_range_uj").write_text("999999\n")
        (tmp_path / name / "energy_uj").write_text("900000\n")
    return tmp_path


def test_packages_are_added_up_through_their_overflow(folder: Path) -> None:
    meter: Any = energy.meter(folder)
    before = meter()
    for name, now in {"intel-rapl:0": 950000, "intel-rapl:1": 100000, "intel-rapl:0:0": 950000}.items():
        (folder / name / "energy_uj").write_text(f"{now}\n")
    assert meter() - before == pytest.approx(0.05 + 0.2)
    (folder / "intel-rapl:0" / "energy_uj").write_text("0\n")
    assert meter() - before == pytest.approx(0.1 + 0.2)


def test_why_there_is_none(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "has no intel-rapl domain" in energy.meter(tmp_path / "empty")
    (folder / "intel-rapl:1" / "energy_uj").unlink()
    assert "not readable" in energy.meter(folder)
