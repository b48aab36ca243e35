"""Engines of TensorRT-RTX, built without a GPU: what parses, what builds, and that weights stay in few bits. None is run."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import lowbit_compiler as lowbit
from helpers import engines
from lowbit_compiler.exits.tensorrt import engine, export
from lowbit_compiler.recipes import RECIPES

PACKED = ("int8-weight-only", "int4-weight-only", "int4-int8")
KERNELS = {"mxfp4": 1 / 2, "nvfp4": 1 / 2}
"""Two layers of Llama have many for what quantizes to e2m1: less, with the codes, than weights in float16 would have beside them."""
SIZE = 1024


@pytest.fixture
def proto(monkeypatch: pytest.MonkeyPatch) -> list[onnx.ModelProto]:
    """The file that the next engine is built from, which goes when it is there."""
    found: list[onnx.ModelProto] = []
    build = engine.build

    def kept(file: Path, *rest: object) -> memoryview:
        found.append(onnx.load(str(file)))
        return build(file, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(export.engine, "build", kept)
    return found


def check(path: Path, proto: onnx.ModelProto, weights: int, kernels: float = 1 / 4) -> None:
    """Few bits before DequantizeLinear, and in the engine: beside what the file stores it holds kernels, in a part of the float weights' bytes."""
    assert engines.require_codes_before_dequantize(proto) >= weights
    assert path.stat().st_size <= engines.stored_bytes(proto) + 4 * weights * kernels


@pytest.mark.parametrize("name", ["int8", *(pytest.param(name, marks=pytest.mark.model) for name in PACKED)])
def test_sizes(name: str, proto: list[onnx.ModelProto], tmp_path: Path) -> None:
    """Were one of both weights in float16, the engine would be larger."""
    model = nn.Sequential(nn.Linear(SIZE, SIZE), nn.ReLU(), nn.Linear(SIZE, SIZE)).eval()
    path, stages = tmp_path / "m.engine", list[str]()
    report = lowbit.export_tensorrt(
        model, torch.randn(4, SIZE), path, recipe=name, dynamic_shapes=({0: Dim("batch", max=64)},), progress=stages.append
    )
    assert len(report.rewritten) == 2
    assert report.notes[-1].startswith(f"{path}: {path.stat().st_size / 1e6:.1f} MB, TensorRT-RTX {engine.VERSION}, compute capability 8.9")
    assert [file.name for file in tmp_path.iterdir()] == ["m.engine"]
    assert "tracing" in stages
    assert "building engine" in stages
    check(path, proto[0], 2 * SIZE * SIZE)


def test_a_part_of_a_group(proto: list[onnx.ModelProto], tmp_path: Path) -> None:
    """SmolLM2 has rows of 576 elements: four and a half groups of 128. TensorRT takes whole blocks alone: nine of 64."""
    lowbit.export_tensorrt(nn.Linear(576, 64).eval(), torch.randn(4, 576), tmp_path / "m.engine", recipe="ternary-weight-only")
    assert engines.require_codes_before_dequantize(proto[0]) == 576 * 64
    assert [list(tensor.dims) for tensor in proto[0].graph.initializer if len(tensor.dims) == 2] == [[64, 576], [64, 9]]


class Logits(nn.Module):
    """Two layers of Llama without a cache: ids [batch, length] -> logits."""

    def __init__(self) -> None:
        super().__init__()
        transformers = pytest.importorskip("transformers")
        sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4}
        self.inner = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=512, **sizes)).eval()

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.inner(input_ids=input_ids, use_cache=False).logits
        return logits


@pytest.mark.model
@pytest.mark.parametrize("name", engines.TAKEN)
def test_llama(name: str, proto: list[onnx.ModelProto], tmp_path: Path) -> None:
    """Every recipe that is not refused, with batch and length that may change."""
    model, path = Logits().eval(), tmp_path / "m.engine"
    lowbit.export_tensorrt(
        model,
        {"input_ids": torch.ones(2, 5, dtype=torch.long)},
        path,
        recipe=name,
        capabilities=(engines.capability_for(RECIPES[name]),),
        dynamic_shapes={"input_ids": {0: Dim("batch", max=4), 1: Dim("length", max=64)}},
    )
    linears = [module for where, module in model.named_modules() if isinstance(module, nn.Linear) and "lm_head" not in where]
    check(path, proto[0], sum(each.weight.numel() for each in linears), KERNELS.get(name, 1 / 4))
