"""A process that is killed or does not come: the others get an error when the group's time is up, and what is on disk stays whole."""

from pathlib import Path

import pytest
import torch

from helpers import ranks
from helpers.compiled import COSINE, cosine
from helpers.tensor_parallel import block, rows
from lowbit_compiler.runtime import timings_file


@pytest.mark.parametrize(
    ("how", "scales"),
    [("killed", "local"), ("killed", "shared"), *(pytest.param("slow", each, marks=pytest.mark.model) for each in ("local", "shared"))],
)
def test_the_others_get_an_error(tmp_path: Path, how: str, scales: str) -> None:
    found = ranks.run("helpers.lost:call", tmp_path, how, scales, killed=1 if how == "killed" else None)
    assert found[0]["before"] == found[0]["again"]
    assert found[0]["error"] == "RuntimeError", found[0]


@pytest.mark.parametrize("last", [1, pytest.param(3, marks=pytest.mark.model)])
def test_caches_on_disk_stay_whole(tmp_path: Path, last: int) -> None:
    folders = {name: tmp_path / name for name in ("killed", "again")}
    for folder in folders.values():
        folder.mkdir()
    caches = tmp_path / "caches"
    (lost,) = ranks.run("helpers.lost:compiling", folders["killed"], str(caches), str(last), killed=1)
    assert lost["error"] == "RuntimeError", lost
    left = {path for path in caches.rglob("*") if path.is_file()}
    assert left
    first, second = ranks.run("helpers.lost:compiling", folders["again"], str(caches), "0")
    assert torch.equal(first["result"], second["result"])
    with torch.no_grad():
        assert cosine(first["result"], block()(rows())) >= COSINE
    for path in (caches / "timings").rglob("*.json"):
        assert timings_file.read(path).seconds
