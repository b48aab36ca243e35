"""What does not go into an engine is said in one sentence before work starts, and no file appears."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

import lowbit_compiler as lowbit
from helpers import engines
from lowbit_compiler.capture import trace
from lowbit_compiler.capture.limits import Limits, limits
from lowbit_compiler.errors import ExportError, MissingPackageError, OptionError
from lowbit_compiler.exits import tensorrt
from lowbit_compiler.exits.tensorrt import engine
from lowbit_compiler.recipes import RECIPES, Recipe

X = torch.randn(4, 64)


def refused(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> str:
    """Return the words of the OptionError that comes before anything is traced."""
    monkeypatch.setattr(trace, "_export", lambda *_: pytest.fail("it was traced"))
    with pytest.raises(OptionError) as error:
        lowbit.export_tensorrt(nn.Linear(64, 48).eval(), X, folder / "m.engine", **options)
    assert not list(folder.iterdir())
    return str(error.value)


def test_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(RECIPES) - set(engines.TAKEN) == {"llm-int8"}
    assert "'llm-int8' does not go into an engine of TensorRT: the treatment 'columns' gathers outliers by NonZero" in refused(
        tmp_path, monkeypatch, recipe="llm-int8"
    )
    assert "codes of fp4 are FLOAT4E2M1, which devices have from compute capability 10.0 on, got 8.9" in refused(
        tmp_path, monkeypatch, recipe="mxfp4", capabilities=("12.0", "8.9")
    )
    assert "codes of e4m3 are of no type that its DequantizeLinear takes" in refused(
        tmp_path, monkeypatch, recipe=Recipe("e4m3", "e4m3", "float")
    )
    at = Recipe("mixed", "int8", "float", sites=(("re:.*", "e4m3"),))
    assert "'mixed' does not go into an engine" in refused(tmp_path, monkeypatch, recipe=at)


def test_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "runtime takes 'rtx' (TensorRT-RTX), got 'trt'" in refused(tmp_path, monkeypatch, runtime="trt")
    assert "capabilities takes a list of compute capabilities such as ('8.9',), got '8.9'" in refused(
        tmp_path, monkeypatch, capabilities="8.9"
    )
    assert "capabilities takes compute capabilities among 7.5, 8.0, 8.6, 8.9" in refused(tmp_path, monkeypatch, capabilities=("9.1",))
    assert "dimension 0 of 'input' needs a largest size: torch.export.Dim('batch', max=...), got 'batch'" in refused(
        tmp_path, monkeypatch, dynamic_shapes=({0: "batch"},)
    )
    assert "dimension 0 of 'input' is 4 in inputs, and takes 1 to 2" in refused(
        tmp_path, monkeypatch, dynamic_shapes=({0: Dim("batch", max=2)},)
    )
    assert "dimension 0 of 'input' is 4 in inputs, and takes 6 to 16" in refused(
        tmp_path, monkeypatch, dynamic_shapes=({0: Dim("batch", min=6, max=16)},)
    )


def test_one_name_has_one_range() -> None:
    given = {"x": X, "y": X}
    for other in (Dim("batch", max=16), 2 * Dim("batch", max=16)):
        with pytest.raises(OptionError, match=r"'batch' is one size, and takes one range; got 0 to 8 and 0 to 16"):
            limits(given, {"x": {0: Dim("batch", max=8)}, "y": {0: other}})
    found = limits(given, {"x": {0: Dim("batch", max=8)}, "y": {0: Dim("batch", max=8), 1: Dim("width", min=2, max=64)}})
    assert found == [Limits((1, 64), (4, 64), (8, 64)), Limits((1, 2), (4, 64), (8, 64))]


def test_a_cache_may_be_empty() -> None:
    assert limits({"x": X[:0]}, {"x": {0: Dim("past", max=8)}}) == [Limits((0, 64), (0, 64), (8, 64))]


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tensorrt.PACKAGES, "no_such_module", "no-such-package")
    with pytest.raises(MissingPackageError, match=r"needs no-such-package: pip install lowbit-compiler\[tensorrt\]"):
        tensorrt.require()


class NonZero(nn.Module):
    """A model that TensorRT-RTX does not parse."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nonzero(x)


def test_what_is_not_parsed_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "m.engine"
    path.write_bytes(b"before")
    with pytest.raises(ExportError, match=r"TensorRT-RTX .* cannot parse the graph: NonZero "):
        lowbit.export_tensorrt(NonZero().eval(), X, path)
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["m.engine"]


def test_an_interrupt_ends_the_build(tmp_path: Path) -> None:
    def interrupted(stage: str) -> None:
        if stage == "building engine":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lowbit.export_tensorrt(nn.Linear(64, 48).eval(), X, tmp_path / "m.engine", progress=interrupted)
    assert not list(tmp_path.iterdir())


def test_devices() -> None:
    """As they are spelled in TensorRT's own enumeration: a new version may spell them otherwise."""
    assert {(7, 5), (8, 9), (12, 0)} <= set(engine.devices())
    assert engine.capability("12.0") == (12, 0)
