"""A call that is met again gives what it gave before, in memory of its own; what may differ from call to call is asked each time."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

import lowbit_compiler  # noqa: F401, the ops
from lowbit_compiler.passes import repeated
from lowbit_compiler.torch_internals.fakes import FakeTensor

aten, ops = torch.ops.aten, torch.ops.lowbit


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated, "_known", {})


def fake(*shape: int, dtype: torch.dtype = torch.float32, mode: FakeTensorMode | None = None) -> Tensor:
    with mode or FakeTensorMode():
        return torch.empty(shape, dtype=dtype)


def call(target: Any, *args: Any, **kwargs: Any) -> Any:
    mode: Any = next(arg for arg in args if isinstance(arg, FakeTensor)).fake_mode
    with mode, torch.no_grad():
        return repeated.fake_result(target, args, kwargs)


def described(result: Any) -> Any:
    parts = result if isinstance(result, tuple | list) else [result]
    return type(result), [(part.shape, part.stride(), part.dtype, part.device, part.untyped_storage().nbytes()) for part in parts]


@pytest.mark.parametrize(
    ("target", "args"),
    [
        (aten.linear.default, [(3, 5), (7, 5)]),
        (ops.rotate.default, [(3, 64)]),
        (ops.quantize_s8.default, [(3, 64)]),
        (aten.clone.default, [(3, 64)]),
        (aten.var_mean.default, [(3, 64)]),
    ],
)
def test_the_second_call_is_as_the_first(target: Any, args: list[Any]) -> None:
    modes = FakeTensorMode(), FakeTensorMode()
    first, second = (call(target, *(fake(*shape, mode=mode) for shape in args)) for mode in modes)
    assert len(repeated._known) == 1
    assert described(first) == described(second)
    parts: Any = second if isinstance(second, tuple) else [second]
    assert all(part.fake_mode is modes[1] for part in parts)


def test_a_slice_of_symbolic_length_is_asked_each_time() -> None:
    """The last of s tokens: sizes are numbers, strides and the place in memory are not."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    x = mode.from_tensor(
        torch.empty(1, 7, 8), symbolic_context=StatelessSymbolicContext([DimDynamic.STATIC, DimDynamic.DYNAMIC, DimDynamic.STATIC])
    )
    last = x[:, -1:, :]
    assert all(type(size) is int for size in last.shape)
    assert not all(type(number) is int for number in (*last.stride(), last.storage_offset()))
    assert call(aten.clone.default, last).shape == (1, 1, 8)
    assert not repeated._known


def test_what_returns_its_operand_is_not_kept() -> None:
    x = fake(3, 64)
    assert call(aten.dropout.default, x, 0.5, False) is x
    assert call(aten.dropout.default, x, 0.5, False) is x


def test_results_share_no_memory() -> None:
    x = fake(3, 64)
    first, second = (call(aten.clone.default, x) for _ in range(2))
    assert len({each.untyped_storage()._cdata for each in (x, first, second)}) == 3


def test_other_numbers_dtypes_and_strides_are_other_calls() -> None:
    x = fake(4, 4)
    for result, want in (
        (call(aten.add.Scalar, x, 1), torch.float32),
        (call(aten.add.Scalar, fake(4, 4, dtype=torch.int32), 1), torch.int32),
        (call(aten.add.Scalar, fake(4, 4, dtype=torch.int32), 1.0), torch.float32),
        (call(aten.add.Scalar, fake(4, 4, dtype=torch.int32), True), torch.int32),
    ):
        assert result.dtype is want
    assert call(aten.add.Scalar, x.t(), 1).stride() == (1, 4)


def test_views_gradients_and_symbolic_sizes_are_asked_each_time() -> None:
    x = fake(4, 4)
    view = call(aten.view.default, x, [16])
    assert view.untyped_storage()._cdata == x.untyped_storage()._cdata
    call(torch.relu, x)
    call(aten.relu.default, fake(4, 4).requires_grad_())
    mode = FakeTensorMode(shape_env=ShapeEnv())
    call(aten.relu.default, mode.from_tensor(torch.empty(5, 6)))
    assert not repeated._known


def test_old_calls_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated, "MOST", 3)
    for n in range(1, 6):
        call(aten.relu.default, fake(n))
    assert len(repeated._known) <= 3
