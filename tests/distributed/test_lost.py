"""A process that is killed or does not come: the others get an error when the group's time is up, instead of waiting for ever."""

from pathlib import Path

import pytest

from helpers import ranks


@pytest.mark.parametrize(
    ("how", "scales"),
    [("killed", "local"), ("killed", "shared"), *(pytest.param("slow", each, marks=pytest.mark.model) for each in ("local", "shared"))],
)
def test_the_others_get_an_error(tmp_path: Path, how: str, scales: str) -> None:
    found = ranks.run("helpers.lost:call", tmp_path, how, scales, killed=1 if how == "killed" else None)
    assert found[0]["before"] == found[0]["again"]
    assert found[0]["error"] == "RuntimeError", found[0]
