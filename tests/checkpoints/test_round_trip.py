"""A model saved and loaded again computes, bit for bit, what the original does compiled."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lowbit_compiler as lowbit
from helpers.compiled import compiled
from helpers.prepared import INT4, Stack, inputs, stack
from lowbit_compiler.checkpoints.linear import StoredLinear
from lowbit_compiler.errors import CheckpointError, OptionError, WeightFreedError
from lowbit_compiler.recipes import Recipe, find_recipe


@torch.no_grad()
def run(model: nn.Module, recipe: Any) -> Tensor:
    torch.compiler.reset()
    result: Tensor = compiled(model, recipe)(inputs(6)[5])
    return result


def empty(blocks: int = 2) -> Stack:
    with torch.device("meta"):
        return Stack(blocks)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return stack(2)


@pytest.mark.parametrize("recipe", ["int8", "int4", "ternary"])
def test_saved_and_loaded(model: nn.Module, recipe: str, tmp_path: Path) -> None:
    """In shards, and from the float file by rows; once more from what was loaded."""
    lowbit.save_pretrained(model, tmp_path / "a", recipe, max_shard_size=9_000)
    assert len(list((tmp_path / "a").glob("model-0000*.safetensors"))) > 1
    loaded = lowbit.load(tmp_path / "a", empty())
    assert loaded.lowbit_recipe == find_recipe(recipe)
    assert sum(isinstance(module, StoredLinear) for module in loaded.modules()) == 8
    assert torch.equal(run(loaded, loaded.lowbit_recipe), run(model, recipe))
    lowbit.save_pretrained(loaded, tmp_path / "b")
    again = lowbit.load(tmp_path / "b", empty(), device="cpu")
    _same(again, loaded)
    assert again.lowbit_recipe == loaded.lowbit_recipe
    _float_file(model, tmp_path / "float")
    _same(lowbit.load(tmp_path / "float", empty(), recipe=recipe), loaded)


def _same(a: nn.Module, b: nn.Module) -> None:
    mine, other = a.state_dict(), b.state_dict()
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) and mine[name].dtype is other[name].dtype for name in mine)


def _float_file(model: nn.Module, folder: Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")


@pytest.mark.parametrize("recipe", [INT4, Recipe("rotated", treatment="rotation")], ids=lambda recipe: recipe.name)
def test_what_was_prepared(model: nn.Module, recipe: Recipe, tmp_path: Path) -> None:
    lowbit.prepare(model, recipe, inputs(), methods=("gptq",))
    plain = stack(2)
    plain.load_state_dict(model.state_dict())
    lowbit.save_pretrained(model, tmp_path / "a", recipe)
    loaded = lowbit.load(tmp_path / "a", empty())
    assert torch.equal(run(loaded, recipe), run(model, recipe))
    assert not torch.equal(run(loaded, recipe), run(plain, recipe))


def test_switched_bits(model: nn.Module, tmp_path: Path) -> None:
    """The width goes into the file, and can be switched in what was loaded."""
    eight = run(model, "int8-switchable")
    lowbit.switch_bits(model, 4)
    four = run(model, "int8-switchable")
    assert not torch.equal(four, eight)
    lowbit.save_pretrained(model, tmp_path / "a", "int8-switchable")
    loaded = lowbit.load(tmp_path / "a", empty())
    assert torch.equal(run(loaded, "int8-switchable"), four)
    assert lowbit.switch_bits(loaded, 8) == 8
    assert torch.equal(run(loaded, "int8-switchable"), eight)
    lowbit.save_pretrained(loaded, tmp_path / "b")
    assert torch.equal(run(lowbit.load(tmp_path / "b", empty()), "int8-switchable"), eight)


class Tied(nn.Module):
    """One weight in two modules, one buffer of views, and a linear that MultiheadAttention reads itself."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(96, 64)
        self.attention = nn.MultiheadAttention(64, 2, batch_first=True)
        self.inside = nn.Linear(64, 64)
        self.head = nn.Linear(64, 96, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("halves", torch.arange(128.0).reshape(2, 64)[:, ::2])

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        y = self.inside(self.attention(x, x, x, need_weights=False)[0])
        return self.head(y + self.halves[0].repeat(2))


def test_what_is_not_plain_stays_float(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, ids = Tied().eval().requires_grad_(False), torch.arange(10)[None]
    lowbit.save_pretrained(model, tmp_path / "a", "int8")
    loaded = lowbit.load(tmp_path / "a", Tied())
    assert [name for name, module in loaded.named_modules() if isinstance(module, StoredLinear)] == ["inside"]
    assert loaded.head.weight is loaded.table.weight
    with torch.no_grad():
        results = []
        for each in (model, loaded):
            torch.compiler.reset()
            results.append(compiled(each, "int8", fullgraph=False)(ids))
    assert torch.equal(*results)


def test_ignored_ones_and_dtypes(model: nn.Module, tmp_path: Path) -> None:
    lowbit.save_pretrained(model, tmp_path / "a", "int8", ignore=["re:down", "first"])
    loaded = lowbit.load(tmp_path / "a", empty(), dtype=torch.bfloat16)
    low = {name for name, module in loaded.named_modules() if isinstance(module, StoredLinear)}
    assert low == {"last", *(f"blocks.{at}.{part}" for at in (0, 1) for part in ("up", "gate"))}
    assert loaded.first.weight.dtype is loaded.last.bias.dtype is torch.bfloat16
    assert loaded.last.weight_scale.dtype is torch.float32


def test_exports_of_what_was_loaded(model: nn.Module, tmp_path: Path) -> None:
    """The same integers are in the file that ONNX Runtime reads."""
    pytest.importorskip("onnxruntime")
    lowbit.save_pretrained(model, tmp_path / "a", "int8")
    loaded, x = lowbit.load(tmp_path / "a", empty()), inputs(1)[0]
    for name, each in (("own", model), ("loaded", loaded)):
        lowbit.export_onnx(each, (x,), tmp_path / f"{name}.onnx", recipe="int8")
    import onnx

    files = [onnx.load(tmp_path / f"{name}.onnx") for name in ("own", "loaded")]
    codes = [sorted(each.raw_data for each in file.graph.initializer if each.data_type == onnx.TensorProto.INT8) for file in files]
    assert codes[0] == codes[1]
    assert len(codes[0]) > 4


def test_bad_arguments(model: nn.Module, tmp_path: Path) -> None:
    for arguments, options, message in (
        ((model, "int9"), {}, "unknown recipe 'int9'"),
        ((model, "int8"), {"format": "pt"}, "format takes 'lowbit' or 'compressed-tensors', got 'pt'"),
        ((model, "int8"), {"format": "compressed-tensors"}, "without a treatment; 'first' is s8, treatment 'rotation'"),
        ((model, "int8"), {"ignore": ["frist"]}, "ignore 'frist' matches none of the model's 8 linears"),
        ((model, "int8"), {"max_shard_size": 0}, "max_shard_size takes a number of bytes from 1 on, got 0"),
        ((3, "int8"), {}, "model takes a torch.nn.Module, got int"),
        ((nn.ReLU(), "int8"), {}, "ReLU has no nn.Linear"),
    ):
        with pytest.raises(OptionError) as raised:
            lowbit.save_pretrained(arguments[0], tmp_path / "a", arguments[1], **options)
        assert message in str(raised.value)
    assert not list(tmp_path.iterdir())
    lowbit.save_pretrained(model, tmp_path / "a")
    for options, message in (({"recipe": "int8"}, "quantized by 'lowbit' already"), ({"dtype": torch.int8}, "dtype takes torch.float32")):
        with pytest.raises(OptionError, match=message):
            lowbit.load(tmp_path / "a", empty(), **options)
    with pytest.raises(CheckpointError, match="architectures takes the name of a model class"):
        lowbit.load(tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"'blocks.1.\w+' is a low-bit linear of the checkpoint, and no nn.Linear of Stack"):
        lowbit.load(tmp_path / "a", empty(1))
    with pytest.raises(CheckpointError, match=r"there is no tensor 'blocks.2.norm.weight' in the checkpoint"):
        lowbit.load(tmp_path / "a", empty(3))


def test_released_weights_cannot_be_saved(model: nn.Module, tmp_path: Path) -> None:
    torch.compiler.reset()
    with torch.no_grad():
        compiled(model, "int8", free_weights=True)(inputs(1)[0])
    with pytest.raises(WeightFreedError, match="which saving reads"):
        lowbit.save_pretrained(model, tmp_path / "a")


def test_the_config_says_what_there_is(model: nn.Module, tmp_path: Path) -> None:
    lowbit.save_pretrained(model, tmp_path / "a", "int8", ignore=["blocks"])
    said = json.loads((tmp_path / "a/config.json").read_text())["quantization_config"]
    assert said["schemes"] == [{"weights": "s8", "arguments": [], "treatment": "rotation", "linears": ["first", "last"]}]
    assert (said["quant_method"], said["version"], said["recipe"]["name"]) == ("lowbit", 1, "int8")
