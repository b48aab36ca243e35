"""FSDP2 gathers float weights at each call: they stay in float, with the reason in the report."""

from pathlib import Path

import torch
from torch import nn

from helpers import ranks
from helpers.tensor_parallel import block, rows

REASON = "a sharded weight (FSDP2) is gathered at each call, and would be packed each time"


def test_gathered_weights_are_declined(tmp_path: Path) -> None:
    with torch.no_grad():
        want = nn.Sequential(block(), block())(rows())
    for each in ranks.run("helpers.fully_sharded:answers", tmp_path):
        assert each["packed"] == 0
        assert set(each["sites"]) == {("declined", "no constant operand", REASON)}
        assert len(each["sites"]) >= 2
        for result in each["results"]:
            torch.testing.assert_close(result, want, rtol=1e-5, atol=1e-5)
