"""Pipelines: each process compiles its stage, and what comes out is one process's to the bit."""

from pathlib import Path

import torch

from helpers import pipelines, ranks


def test_stages_give_what_one_process_gives(tmp_path: Path) -> None:
    first, last = ranks.run("helpers.pipelines:piped", tmp_path)
    want = pipelines.one_process()
    for each in (first, last):
        assert [each[schedule][1] for schedule in pipelines.SCHEDULES] == [["rewritten", "rewritten"], []]  # the second compiles nothing
    for schedule in pipelines.SCHEDULES:
        assert first[schedule][0] is None
        assert torch.equal(last[schedule][0], want)
