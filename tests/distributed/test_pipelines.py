"""Pipelines: each process compiles its stage, and what comes out is one process's to the bit."""

from pathlib import Path

import pytest
import torch

from helpers import pipelines, ranks


@pytest.mark.parametrize("schedule", ["ScheduleGPipe", "Schedule1F1B"])
def test_stages_give_what_one_process_gives(tmp_path: Path, schedule: str) -> None:
    (nothing, first), (result, last) = ranks.run("helpers.pipelines:piped", tmp_path, schedule)
    assert nothing is None
    assert first == last == ["rewritten", "rewritten"]
    assert torch.equal(result, pipelines.one_process())
