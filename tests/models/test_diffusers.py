"""A pipeline of diffusers whose transformer is low-bit: from its float folder and saved into it, alone and in the pipeline."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lowbit_compiler as lowbit
from helpers.compiled import compiled
from lowbit_compiler.checkpoints.linear import StoredLinear
from lowbit_compiler.errors import CheckpointError

pytestmark = pytest.mark.model
diffusers = pytest.importorskip("diffusers")
RECIPE = "int8"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=32, in_channels=4, out_channels=8, num_layers=2, sample_size=8
    )
    vae = diffusers.AutoencoderKL(block_out_channels=(32,), latent_channels=4, norm_num_groups=8)
    pipeline = diffusers.DiTPipeline(transformer, vae, diffusers.DDIMScheduler())
    pipeline.save_pretrained(tmp_path / "pipeline")
    return tmp_path / "pipeline"


def drawn(folder: Path, transformer: nn.Module) -> Tensor:
    """Return the pictures of the pipeline whose transformer is the compiled one."""
    torch.compiler.reset()
    pipeline = diffusers.DiTPipeline.from_pretrained(folder, transformer=transformer)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.transformer = compiled(transformer, RECIPE)
    noise = torch.Generator().manual_seed(1)
    pictures: Any = pipeline([1, 2], num_inference_steps=2, generator=noise, output_type="np").images
    assert len([site for site in lowbit.last_report().rewritten if site.kind == "linear"])
    return torch.from_numpy(pictures)


def test_a_pipeline(folder: Path) -> None:
    original = diffusers.DiTTransformer2DModel.from_pretrained(folder / "transformer").eval().requires_grad_(False)
    want = drawn(folder, original)
    quantized = lowbit.load(folder / "transformer", recipe=RECIPE)
    assert isinstance(quantized, diffusers.DiTTransformer2DModel)
    assert any(isinstance(module, StoredLinear) for module in quantized.modules())
    assert torch.equal(drawn(folder, quantized), want)
    lowbit.save_pretrained(original, folder / "transformer", RECIPE)
    assert torch.equal(drawn(folder, lowbit.load(folder / "transformer")), want)
    with torch.device("meta"):
        empty = diffusers.DiTTransformer2DModel.from_config(original.config)
    with pytest.raises(
        CheckpointError, match=r"no file has a tensor 'pos_embed.pos_embed', which DiTTransformer2DModel computes as it is made"
    ):
        lowbit.load(folder / "transformer", empty)


def test_names_of_files(folder: Path) -> None:
    """Those of diffusers, in shards too; of two, neither is taken."""
    whole = lowbit.load(
        folder / "vae", diffusers.AutoencoderKL.from_config(json.loads((folder / "vae/config.json").read_text())), recipe=RECIPE
    )
    diffusers.AutoencoderKL.from_pretrained(folder / "vae").save_pretrained(folder / "vae", max_shard_size="100KB")
    assert (folder / "vae/diffusion_pytorch_model.safetensors.index.json").exists()
    shards = lowbit.load(folder / "vae", recipe=RECIPE)
    assert all(torch.equal(tensor, shards.state_dict()[name]) for name, tensor in whole.state_dict().items())
    (folder / "vae/diffusion_pytorch_model.fp16.safetensors.index.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"has 2 files \*.safetensors.index.json, and no model.safetensors.index.json: pass the path of one"
    ):
        lowbit.load(folder / "vae", recipe=RECIPE)
