"""Models with state, and float models at fault: every run of a bisection starts the same, or says why it cannot."""

import pytest
import torch
from torch import Tensor, nn

from lowbit_compiler.debug.bisect import bisect
from lowbit_compiler.errors import DebugError


def test_state_and_inputs_are_the_same_in_every_run() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 64)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            x += 1
            return self.linear(x) * self.calls

    model, x = Counting().eval(), torch.randn(3, 64)
    assert bisect(model, x, plan="always", remainder="eager").verdict == "passes"


def test_float_model_at_fault() -> None:
    class Restless(nn.Linear):
        count = 0

        def forward(self, x: Tensor) -> Tensor:
            Restless.count += 1
            return super().forward(x) * (-1) ** Restless.count

    with pytest.raises(
        DebugError, match=r"^a second run on the same inputs gives other values than the float model \(.* a counter in Python"
    ):
        bisect(Restless(64, 64), torch.randn(2, 64), remainder="eager")
    with pytest.raises(DebugError, match=r"the float model fails by itself, without lowbit: RuntimeError: mat1 and mat2"):
        bisect(nn.Linear(64, 64), torch.randn(2, 65), remainder="eager")
    with pytest.raises(DebugError, match="returns no floating-point tensor"):
        bisect(lambda x: x.argmax(), torch.randn(2, 65), remainder="eager")


def test_a_counter_in_python_is_named_as_the_cause() -> None:
    class Counting(nn.Linear):
        count = 0

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return super().forward(x)

    with pytest.raises(DebugError, match=r"^Dynamo traces the model anew in every run.* a counter in Python$"):
        bisect(Counting(64, 64), torch.randn(2, 64), remainder="eager")
