"""What cannot be packaged is said in one sentence before AOTInductor runs, and what was under the name stays there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import lowbit_compiler as lowbit
from helpers.graphs import TwoLinears
from lowbit_compiler.errors import ExportError, OptionError
from lowbit_compiler.torch_internals import inductor

X = torch.randn(2, 96)


@pytest.mark.parametrize(
    ("message", "name", "model", "options"),
    [
        ("path takes a file whose name ends in .pt2, got '.*model.so'", "model.so", TwoLinears().eval(), {}),
        ("is no folder that can be written to", "missing/model.pt2", TwoLinears().eval(), {}),
        ("option 'free_weights' does not apply to a package; accepted: .*, plan", "model.pt2", TwoLinears().eval(), {"free_weights": True}),
        ("unknown recipe 'int9'", "model.pt2", TwoLinears().eval(), {"recipe": "int9"}),
        ("module 'TwoLinears' is in training mode", "model.pt2", TwoLinears(), {}),
        ("model takes a torch.nn.Module, got builtin_function", "model.pt2", torch.relu, {}),
        ("inputs have no argument 'y'; they have: x", "model.pt2", TwoLinears().eval(), {"dynamic_shapes": {"y": {0: "rows"}}}),
    ],
)
def test_bad_arguments(message: str, name: str, model: Any, options: dict[str, Any], tmp_path: Path, packaged: list[Any]) -> None:
    with pytest.raises(OptionError, match=message):
        lowbit.export_package(model, X, tmp_path / name, **options)
    assert not packaged
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("recipe", ["mxfp4", "nvfp4"])
def test_what_only_python_computes_is_refused(recipe: str, tmp_path: Path, packaged: list[Any]) -> None:
    with pytest.raises(ExportError, match=r"lowbit::dequantize_\w+ has no kernel without Python; recipes with kernels: int8, "):
        lowbit.export_package(TwoLinears().eval(), X, tmp_path / "model.pt2", recipe=recipe)
    assert not packaged


class Counter(nn.Module):
    """A model that counts its calls: AOTInductor would forget each."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x + self.calls


def test_state_is_refused(tmp_path: Path, packaged: list[Any]) -> None:
    with pytest.raises(ExportError, match="buffer 'calls' is written to, and a file keeps no state"):
        lowbit.export_package(Counter().eval(), X, tmp_path / "model.pt2")
    assert not packaged


def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(program: ExportedProgram, path: Path, metadata: dict[str, str]) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(inductor, "package", full)
    path = tmp_path / "model.pt2"
    path.write_bytes(b"before")
    with pytest.raises(ExportError, match=r"AOTInductor cannot package TwoLinears: OSError: .*No space left on device"):
        lowbit.export_package(TwoLinears().eval(), X, path)
    assert path.read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir()] == ["model.pt2"]
