"""Low-bit checkpoints cut over processes as they are read: each process has its part of the codes that are in the file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import lowbit_compiler as lowbit
from helpers import parallel_llama, ranks
from helpers.compiled import compiled
from helpers.tensor_parallel import apart, emulated, part_of
from lowbit_compiler.checkpoints import hf_parallel
from lowbit_compiler.checkpoints.linear import StoredLinear
from lowbit_compiler.checkpoints.scheme import Scheme
from lowbit_compiler.errors import CheckpointError, OptionError
from lowbit_compiler.recipes import find_recipe


def _stored(folder: Path, recipe: str, to: Path) -> Any:
    """Save the model in ``recipe``, and return what is loaded of that."""
    lowbit.save_pretrained(parallel_llama.load(folder), to, recipe)
    return parallel_llama.load(to)


@pytest.mark.parametrize(("recipe", "decision"), [
    ("int8", "rewritten"),
    pytest.param("int4", "rewritten", marks=pytest.mark.model),
    pytest.param("nvfp4", "emulated", marks=pytest.mark.model),
])  # fmt: skip
def test_parts_of_the_codes_in_the_file(tmp_path: Path, folder: Path, recipe: str, decision: str) -> None:
    model = _stored(folder, recipe, tmp_path / "stored")
    found = ranks.run("helpers.parallel_llama:stored", tmp_path, str(tmp_path / "stored"), recipe, str(tmp_path / "again"))
    torch.compiler.reset()
    with torch.no_grad(), apart():
        want = parallel_llama.logits(compiled(emulated(model, *parallel_llama.BY_COLUMNS), recipe))
    for each in found:
        decisions = {name: what for name, kind, what, _ in each["sites"] if kind == "linear"}
        assert decisions == dict.fromkeys((*parallel_llama.BY_ROWS, *parallel_llama.BY_COLUMNS, parallel_llama.HEAD), decision)
        assert each["packed"] == (4 * parallel_llama.LAYERS + 1 if decision == "rewritten" else len(decisions), 0)
        assert torch.equal(each["first"], want)
        assert torch.equal(each["second"], want)
        own = "scales are each process's own: its weight is computed from what this process holds"
        apart_from = {name for name, _, _, detail in each.get("shared", ()) if detail == own}
        assert apart_from == (set(parallel_llama.BY_COLUMNS) if recipe == "int8" else set())
    _same_files(tmp_path / "stored", tmp_path / "again")


def _same_files(one: Path, other: Path) -> None:
    with safe_open(one / "model.safetensors", "pt") as a, safe_open(other / "model.safetensors", "pt") as b:
        assert set(a.keys()) == set(b.keys())
        for name in a.keys():  # noqa: SIM118
            assert torch.equal(a.get_tensor(name), b.get_tensor(name)), name


def test_what_cannot_be_cut_is_refused(tmp_path: Path, folder: Path) -> None:
    model = _stored(folder, "int8", tmp_path / "stored")
    name = "model.layers.*.mlp.down_proj"
    with pytest.raises(CheckpointError, match=r"'model.layers.0.mlp.down_proj' has 512 columns of .* 16 processes"):
        hf_parallel.cut(model, {name: "rowwise"}, 16, quantized=True)
    with pytest.raises(CheckpointError, match="by rows or by columns, got the style 'packed_colwise'"):
        hf_parallel.cut(model, {name: "packed_colwise"}, 2, quantized=True)
    with pytest.raises(OptionError, match=r"lowbit.save_pretrained first"):
        hf_parallel.cut(model, {name: "rowwise"}, 2, quantized=False)
    plan = {name: "rowwise", "model.layers.*.mlp.up_proj": "colwise", "lm_head": "replicate"}
    hf_parallel.cut(model, plan, 2, quantized=True)
    assert {key: style for key, style in plan.items() if style == "replicate"} == {
        f"{name}.weight_scale": "replicate",
        "lm_head": "replicate",
    }


@pytest.mark.parametrize(("recipe", "k", "parts", "fits"), [
    ("int8", 128, 2, True), ("int8", 192, 2, False), ("int8", 130, 4, False), ("int8-vector", 192, 2, True), ("int8-vector", 2, 4, False),
    ("int4", 128, 2, True), ("int4", 128, 4, True), ("int4", 64, 4, False), ("nvfp4", 64, 4, True), ("nvfp4", 64, 8, False),
])  # fmt: skip
def test_whole_blocks(recipe: str, k: int, parts: int, fits: bool) -> None:
    plan = find_recipe(recipe).plan
    scheme = Scheme(plan.w, plan.treatment)
    assert scheme.divides(k, parts) is fits
    if fits:
        weight = torch.randn(3, k, generator=torch.Generator().manual_seed(0))
        whole = StoredLinear(k, 3, scheme, None)
        whole.fill(scheme.quantize(3, k, lambda start, stop: weight[start:stop]))
        halves = [part_of(whole, rank, parts).dequantized(torch.float32) for rank in range(parts)]
        assert torch.equal(torch.cat(halves, 1), whole.dequantized(torch.float32))
