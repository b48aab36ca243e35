"""What the verifier calls right and wrong: roundings at a border pass, whatever is wrong does not, massive values hide nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import lowbit_compiler as lowbit
from helpers.onnx_files import Exported
from lowbit_compiler.errors import OptionError
from lowbit_compiler.exits.onnx.replay import Inside
from lowbit_compiler.exits.onnx.verify import difference
from lowbit_compiler.recipes import Recipe

PLAIN = Recipe("test plain", treatment="none", head="same")
COLUMNS = Recipe("test columns", treatment="columns", head="same")


def change(path: Path, name: str, function: Callable[[Any], Any]) -> None:
    """Replace the values of a stored tensor."""
    proto = onnx.load(str(path))
    (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name == name)
    values = function(onnx.numpy_helper.to_array(tensor).copy()).astype(onnx.numpy_helper.to_array(tensor).dtype)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    onnx.save(proto, str(path))


class Gained(nn.Module):
    """A linear behind a factor for each column; a file in which the factors are changed a little stands for other float noise."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gain", torch.ones(64))
        self.linear = nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x * self.gain)


def ties() -> Tensor:
    """Rows whose largest is 127, and half of whose elements lie between two codes."""
    x = torch.arange(64.0).repeat(3, 1) + torch.tensor([0.5, 0.0, -20.5])[:, None]
    x[:, 0] = 127.0
    return x


def scaled(factor: float) -> Callable[[Any], Any]:
    """Return a change of all columns but the first."""
    return lambda gain: np.where(np.arange(64) > 0, gain * np.float32(factor), gain)


def test_roundings_at_a_border_are_followed(tmp_path: Path) -> None:
    exported = Exported(tmp_path, Gained().eval(), (ties(),), recipe=PLAIN)
    change(exported.path, "gain", scaled(1 + 1e-6))
    result = exported.agreement((ties(),))
    assert [row.agrees for row in (*result.outputs, *result.followed)] == [False, True], str(result)
    assert not result.inside
    assert "at the border between two codes" in str(result)
    change(exported.path, "gain", scaled(1.01))
    result = exported.agreement((ties(),))
    assert [row.agrees for row in (*result.outputs, *result.followed)] == [False, False], str(result)
    assert next(row for row in result.inside if not row.agrees).name == "mul"
    assert not result.agrees


def test_columns_at_the_threshold_are_followed(tmp_path: Path) -> None:
    """One column's largest is the threshold exactly; a row with Inf decides nothing, and a massive value widens nothing."""
    x = torch.rand(5, 64) * 4 - 2
    x[1, 7], x[2, 9], x[2, 3], x[3, 5], x[4, 11] = 6.0, 9.0, 1e4, torch.inf, 7.0
    exported = Exported(tmp_path, Gained().eval(), (x,), recipe=COLUMNS)
    exact = exported.agreement((x,))
    assert exact.agrees, str(exact)
    change(exported.path, "gain", scaled(1 - 1e-6))
    result = exported.agreement((x,))
    assert not all(row.agrees for row in result.outputs), str(result)
    assert all(row.agrees for row in result.followed), str(result)
    change(exported.path, "gain", scaled(1))
    change(exported.path, "float 6", lambda _: np.float32(8))
    result = exported.agreement((x,))
    assert not result.agrees, str(result)
    assert next(row for row in result.inside if not row.agrees).where == "linear (hit_columns)"


class Rounded(Gained):
    """A decision that is not followed."""

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.gain
        return self.linear(x) + 10 * torch.round(x)[..., :32]


def test_where_no_step_is_wrong_but_outputs_differ_the_file_is_not_called_right(tmp_path: Path) -> None:
    exported = Exported(tmp_path, Rounded().eval(), (ties(),), recipe=PLAIN)
    change(exported.path, "gain", scaled(1 + 1e-6))
    result = exported.agreement((ties(),))
    assert result.inside
    assert all(row.agrees for row in result.inside), str(result)
    assert not result.agrees
    assert "no single step is wrong" in str(result)


class Named(nn.Module):
    """Outputs with the names of PyTorch's nodes, a constant among them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 32), nn.Linear(32, 64)
        self.register_buffer("temperature", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.b(torch.relu(self.a(x)))
        return {"getitem": y.sum(-1), "mul": y, "relu": y * 2, "constant": self.temperature}


def test_outputs_with_names_of_nodes(tmp_path: Path) -> None:
    """They are not taken for values inside; and a changed constant output, which no step computes, is seen."""
    model, x = Named().eval(), torch.randn(5, 64)
    exported = Exported(tmp_path, model, (x,), recipe=PLAIN)
    inside = Inside(exported.path, exported.built)
    outputs, theirs = inside.values(exported.request)
    for got, want in zip(outputs, inside.followed(exported.request, theirs), strict=True):
        assert difference("", "", got, want).agrees
    assert len(theirs["getitem"].shape) == 2  # the codes
    change(exported.path, "b.weight_q", lambda q: 3 - q)
    result = exported.agreement((x,))
    assert [row.where for row in result.inside if not row.agrees] == ["b (product_u8s8)"], str(result)
    exported = Exported(tmp_path, model, (x,), recipe=PLAIN)
    change(exported.path, "constant", lambda values: values + 1)
    result = exported.agreement((x,))
    assert not result.agrees
    assert [row.name for row in result.outputs if not row.agrees] == ["constant"]


@pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf"), "x"])
def test_tolerance(tolerance: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="tolerance takes a number that is finite and not negative, got "):
        lowbit.verify_onnx(tmp_path / "nothing.onnx", nn.Linear(64, 32).eval(), torch.randn(1, 64), tolerance=tolerance)


def test_masks_and_massive_columns_hide_nothing() -> None:
    want = torch.randn(6, 40) + 3
    wrong = want * 1.01
    for value in (torch.finfo(torch.float32).min, -torch.inf):
        mask = torch.rand(6, 40) > 0.5
        masked = want.masked_fill(mask, value)
        assert difference("a", "", masked.clone(), masked).relative == 0
        assert not difference("a", "", wrong.masked_fill(mask, value), masked).agrees
        assert not difference("a", "", want.masked_fill(mask, -3.4e38), masked).agrees
    massive = want.clone()
    massive[:, 3] *= 1e4
    other = wrong.clone()
    other[:, 3] = massive[:, 3]
    assert not difference("a", "", other, massive).agrees
    rows = want * torch.tensor([1, 1e4, 1, 1, 1, 1])[:, None]
    assert not difference("a", "", rows * torch.tensor([1.01, 1, 1.01, 1.01, 1, 1])[:, None], rows).agrees
    assert difference("a", "", massive + 1e-3 * want.abs().median() * torch.rand(6, 40), massive).agrees


def test_an_element_near_zero_is_held_to_the_size_of_its_row() -> None:
    want = torch.linspace(-1, 1, 41)[None]  # zero in the middle
    assert difference("a", "", want + 1e-5, want).agrees
    sparse = torch.zeros(1, 41)
    sparse[0, :3] = torch.tensor([1.0, 1e-9, 2.0])
    assert difference("a", "", sparse + 1e-6, sparse).agrees
