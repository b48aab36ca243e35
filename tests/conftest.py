"""Every test starts from one seed and from an empty Dynamo cache."""

import logging
from collections.abc import Iterator

import pytest
import torch

_trace = logging.getLogger("torch.__trace")  # with pytest's log capture, torch would format every event of its trace
_trace.handlers.clear()
_trace.propagate = False
torch._dynamo.guards.profile_guard_manager = lambda *_: 0.0  # Dynamo empties the CPU's cache to time its guards: 20 ms for each graph


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.manual_seed(0)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()
