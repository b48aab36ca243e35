"""What accuracy refuses, and what it says: models that differ from run to run, the user's own errors, bad arguments."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.broken import EAGER, Broken
from lowbit_compiler.compile import driver
from lowbit_compiler.debug import accuracy
from lowbit_compiler.debug.metric import Judge
from lowbit_compiler.debug.search import fewest
from lowbit_compiler.errors import DebugError, LowbitError, OptionError


def test_a_model_that_differs_from_run_to_run() -> None:
    class Restless(nn.Linear):
        runs = 0

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            return super().forward(x) * self.runs

    with pytest.raises(DebugError, match=r"gives other values when it is run again on the same inputs \(relative error \+100.000%\)"):
        accuracy(Restless(64, 64).eval(), (torch.randn(8, 64),), **EAGER)


def test_a_graph_left_in_float_does_not_count_as_met(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any) -> Any:
        graphs.append(args)
        if len(graphs) == 1:
            raise RuntimeError("the first graph fails")
        return compile_captured(*args)

    graphs: list[Any] = []
    compile_captured = driver.compile_captured
    monkeypatch.setattr(driver, "compile_captured", failing)
    with pytest.raises(DebugError, match="a graph was left in float: RuntimeError: the first graph fails"):
        accuracy(Broken().eval(), (torch.randint(64, (3, 20)),), budget=1.0, **EAGER)
    assert len(graphs) == 3


def test_the_users_code_raises() -> None:
    model, x = nn.Linear(64, 64).eval(), torch.randn(8, 64)
    with pytest.raises(DebugError, match="the float model fails by itself, without lowbit: RuntimeError: mat1 and mat2"):
        accuracy(model, (torch.randn(8, 63),), **EAGER)
    with pytest.raises(OptionError, match="broken, given a Tensor, raised AttributeError: 'Tensor' object has no attribute 'loss'"):
        accuracy(model, (x,), metric=broken, **EAGER)
    with pytest.raises(OptionError, match="the inputs cannot be copied, which every run needs: TypeError"):
        accuracy(model, ((each for each in "ab"),), **EAGER)


def broken(output: Any) -> float:
    return float(output.loss)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": -0.1}, "budget takes a number >= 0"),
        ({"free_weights": True}, "option 'free_weights' takes False here"),
        ({"recipe": "int9"}, "unknown recipe 'int9'"),
        ({"recipe": "int4-training"}, "measured without gradients, and recipe 'int4-training' trains; accepted: int8, "),
        ({"samples": ()}, "list of these, got an empty tuple"),
        ({"samples": 3}, "list of these, got int"),
        ({"ignore": ["nothing"]}, "matches no module or parameter"),
    ],
)
def test_mistakes(arguments: dict[str, Any], message: str) -> None:
    samples = arguments.pop("samples", (torch.randn(8, 64),))
    with pytest.raises(LowbitError, match=message):
        accuracy(nn.Linear(64, 64).eval(), samples, **arguments)


def test_an_output_without_floats() -> None:
    with pytest.raises(OptionError, match="holds no float tensor, got Tensor"):
        Judge([torch.ones(3, dtype=torch.int64)])


def test_fewest() -> None:
    for needed in ({0}, {1}, {0, 3}, {2, 5}, set(), {7}):
        asked: list[int] = []

        def enough(out: Any, needed: set[int] = needed, asked: list[int] = asked) -> bool:
            asked.append(len(out))
            return needed <= set(out)

        assert fewest(range(8), enough) == sorted(needed)
        assert len(asked) <= 2 + 3 + 7
    assert fewest(range(8), lambda _: False) is None
    assert fewest([], lambda _: False) is None


def test_str() -> None:
    result = accuracy(nn.Linear(64, 64).eval(), (torch.randn(8, 64),), budget=0.5, **EAGER)
    assert 'torch.compile(model, backend="lowbit", options=' in str(result)
