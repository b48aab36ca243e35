"""Files that GPTQModel, AutoAWQ, bitsandbytes and gguf wrote: the integers are theirs (write_files.py says how the first ones were made)."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import lowbit_compiler as lowbit
from helpers import bounds
from helpers.compiled import compiled, reports_of
from lowbit_compiler.checkpoints.formats.gguf import OPERANDS
from lowbit_compiler.checkpoints.formats.gguf_blocks import KINDS
from lowbit_compiler.errors import CheckpointError
from lowbit_compiler.runtime import kernels, library

FILES = Path(__file__).parent / "files"


class Two(nn.Module):
    """What the files are of."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(128, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


@pytest.mark.parametrize(("folder", "op", "zero"), [("gptq", "linear_fs4", 8), ("gptq_v2", "linear_fz4", 0), ("awq", "linear_fz4", 0)])
def test_integers_zero_points_and_scales(folder: str, op: str, zero: int, tmp_path: Path) -> None:
    model, expected = lowbit.load(FILES / folder, Two(), dtype=torch.float32), load_file(FILES / folder / "expected.safetensors")
    for name in ("first", "second"):
        module: Any = model.get_submodule(name)
        codes, zeros, scales = (expected[f"{name}.{key}"].float() for key in ("codes", "zeros", "scales"))
        assert torch.equal(module.parts[0].float() + zero, codes)
        each = [number.repeat_interleave(32, 1) for number in (zeros, scales)]
        assert torch.equal(module.dequantized(torch.float32), (codes - each[0]) * each[1])
    torch.compiler.reset()
    x = torch.randn(3, 128)
    with torch.no_grad():
        got, (report,) = reports_of(lambda: compiled(model, "int8")(x))
        assert (got - model(x)).norm() / got.norm() < 2e-3
    assert {site.lowered_to for site in report.sites} == {f"lowbit::{op}"}
    lowbit.save_pretrained(model, tmp_path / "a")
    again = lowbit.load(tmp_path / "a", Two()).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.skipif(library.handle() is None, reason="no native library")
@pytest.mark.parametrize("folder", ["gptq_v2", "awq"])
def test_zero_points_have_kernels(folder: str) -> None:
    """What is compiled names its kernel and is, at every level of this machine, the product of the file's numbers in float64."""
    module: Any = lowbit.load(FILES / folder, Two(), dtype=torch.float32).get_submodule("first")
    torch.compiler.reset()
    fast, sites = compiled(module, "int4", dynamic=True), []
    for m in (40, 3):
        x = torch.randn(m, 128)
        want, bound = bounds.on_lines(x, module.scheme.operand, module.parts, module.bias, torch.float32)
        for isa in library.status().detected:
            with torch.no_grad(), kernels.using(isa=isa):
                got, reports = reports_of(lambda x=x: fast(x))
            bounds.assert_within(got, want, bound)
            sites += [site for report in reports for site in report.sites]
    assert {site.lowered_to for site in sites} == {"lowbit::linear_fz4"}
    assert {site.kernel for site in sites} <= {kernel.name for kernel in kernels.kernels() if kernel.family == "fgemm_z4"}


def test_int8_of_bitsandbytes() -> None:
    model = lowbit.load(FILES / "bitsandbytes", Two())
    expected = load_file(FILES / "bitsandbytes/expected.safetensors")
    assert model.lowbit_recipe.name == "llm-int8"
    for name in ("first", "second"):
        module: Any = model.get_submodule(name)
        assert torch.equal(module.parts[0], expected[f"{name}.codes"])
        got, want = module.dequantized(torch.float32), expected[f"{name}.weight"]
        assert (got - want).abs().max() <= 2 * torch.finfo(torch.float32).eps * want.abs().max()


def edited(folder: str, tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None]) -> Path:
    shutil.copytree(FILES / folder, tmp_path / "a")
    config, tensors = json.loads((tmp_path / "a/config.json").read_text()), load_file(tmp_path / "a/model.safetensors")
    change(config["quantization_config"], tensors)
    (tmp_path / "a/config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "a/model.safetensors")
    return tmp_path / "a"


REFUSED = {
    "activation order": ("gptq", lambda config, _: config.update(desc_act=True), "desc_act takes False, got True"),
    "3 bits": ("gptq", lambda config, _: config.update(bits=3), "bits 3 in checkpoint_format 'gptq' are not read"),
    "columns in another order": ("gptq", lambda _, x: x["first.g_idx"].copy_(x["first.g_idx"].flip(0)), "'first.g_idx' has groups of columns in another order"),
    "groups of 20": ("gptq", lambda config, _: config.update(group_size=20), "first: groups of 20 elements are not read"),
    "groups of none": ("awq", lambda config, _: config.update(group_size=0), "first: groups of 0 elements are not read"),
    "no scales": ("gptq", lambda _, x: x.pop("first.scales"), "there is no tensor 'first.scales'"),
    "other scales": ("awq", lambda _, x: x.update({"first.scales": torch.ones(3)}), "tensor 'first.scales' takes float16 or bfloat16 or float32 of shape (4, 64)"),
    "gemv": ("awq", lambda config, _: config.update(version="gemv"), "bits 4 in version 'gemv' are not read"),
    "nf4": ("bitsandbytes", lambda config, _: config.update(load_in_8bit=False, load_in_4bit=True), "4-bit files of bitsandbytes (nf4, fp4) are not read"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_read(case: str, tmp_path: Path) -> None:
    folder, change, message = REFUSED[case]
    with pytest.raises(CheckpointError) as raised:
        lowbit.load(edited(folder, tmp_path, change), Two())
    assert message in str(raised.value)


def blocks(kind: int, count: int, most: float = 0.1) -> np.ndarray[Any, Any]:
    """Return random blocks of a type of ggml, with scales up to ``most``."""
    rng = np.random.default_rng(kind)
    raw = rng.integers(0, 256, (count, KINDS[kind].nbytes), dtype=np.uint8)
    for at in {2: (0,), 3: (0, 2), 6: (0,), 8: (0,), 12: (0, 2), 14: (208,)}[kind]:
        raw[:, at : at + 2] = rng.uniform(-most, most, (count, 1)).astype(np.float16).view(np.uint8)
    return raw


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: KINDS[kind].name)
def test_blocks_of_ggml(kind: int) -> None:
    """As the package gguf dequantizes them, to the bit; and through the parts that a linear keeps."""
    gguf = pytest.importorskip("gguf")
    raw, one = blocks(kind, 6), KINDS[kind]
    want = torch.from_numpy(gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(kind)))
    codes, slope, minimum = one.lines(torch.from_numpy(raw))
    assert slope.shape == (6, one.count // one.group)
    assert torch.equal((codes.reshape(*slope.shape, -1).float() * slope[..., None] + minimum[..., None]).reshape(want.shape), want)
    operand = OPERANDS[one.name]
    if len(operand.parts) == 2:
        assert torch.equal(operand.dequantize((codes.to(torch.int8) - 8, slope)), want)
    else:
        halves = [part.to(stored.dtype) for part, stored in zip((slope, minimum), operand.parts[1:], strict=False)]
        assert torch.equal(operand.dequantize((codes, *halves, torch.ones(6, 1))), want)


@pytest.mark.parametrize("name", ["Q8_0", "Q5_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K"])
def test_a_model_that_gguf_wrote(name: str, tmp_path: Path) -> None:
    """Llama's rows come back into the order of transformers; the logits are those of the dequantized file."""
    gguf, transformers = pytest.importorskip("gguf"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    width = 256 if name.endswith("K") else 64
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=width, intermediate_size=width * 2, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=32, tie_word_embeddings=False, rms_norm_eps=1e-5,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval().requires_grad_(False)
    write(gguf, model, gguf.GGMLQuantizationType[name], tmp_path / "model.gguf")
    loaded = lowbit.load(tmp_path / "model.gguf")
    assert loaded.config.num_key_value_heads == 2
    ids = torch.arange(9)[None]
    with torch.no_grad():
        got, want = loaded(ids).logits, model(ids).logits
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()
    torch.compiler.reset()
    with torch.no_grad():
        fast, (report,) = reports_of(lambda: compiled(loaded, "int4")(ids).logits)
    assert (fast - got).norm() / got.norm() < 2e-3
    assert {site.lowered_to for site in report.sites if site.kind == "linear"} == {f"lowbit::linear_f{OPERANDS[name].format.name}"}


def quantized(gguf: Any, rows: np.ndarray[Any, Any], kind: Any) -> np.ndarray[Any, Any]:
    """Return ``rows`` as the package quantizes them; where it only reads a type, random blocks of weights below 1."""
    with contextlib.suppress(NotImplementedError):
        return gguf.quants.quantize(rows, kind)  # type: ignore[no-any-return]
    return blocks(kind, rows.size // KINDS[kind].count, 1e-4).reshape(len(rows), -1)


def write(gguf: Any, model: Any, kind: Any, path: Path) -> None:
    """Write ``model`` by the package's writer, and leave in it what the file stands for."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in (
        (writer.add_context_length, config.max_position_embeddings), (writer.add_embedding_length, config.hidden_size),
        (writer.add_block_count, config.num_hidden_layers), (writer.add_feed_forward_length, config.intermediate_size),
        (writer.add_head_count, config.num_attention_heads), (writer.add_head_count_kv, config.num_key_value_heads),
        (writer.add_layer_norm_rms_eps, config.rms_norm_eps), (writer.add_token_list, [f"w{at}" for at in range(64)]),
    ):  # fmt: skip
        add(value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        rows = weight.numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if heads is not None:
            rows = rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
        target = names.get_name(name, try_suffixes=(".weight",))
        if rows.ndim < 2:
            writer.add_tensor(target, rows)
            continue
        packed = quantized(gguf, rows, kind)
        writer.add_tensor(target, packed, raw_dtype=kind)
        back = torch.from_numpy(gguf.quants.dequantize(packed, kind))
        weight.copy_(back if heads is None else back.reshape(heads, -1, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
