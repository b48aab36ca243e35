"""Two layers of Llama cut over the processes of a gloo group, by transformers' plan and by torch's: run by helpers/ranks.py."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from torch import Tensor, nn

from helpers.tensor_parallel import seen

LAYERS = 2
BY_COLUMNS = tuple(f"model.layers.{layer}.{name}" for layer in range(LAYERS) for name in ("self_attn.o_proj", "mlp.down_proj"))
BY_ROWS = tuple(
    f"model.layers.{layer}.{name}"
    for layer in range(LAYERS)
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
)
HEAD = "lm_head"


def save(folder: Path) -> None:
    """Write the model's files."""
    config = transformers.LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=512, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=4
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def load(folder: str | Path, **options: Any) -> Any:
    """Return the model of :func:`save`."""
    return transformers.LlamaForCausalLM.from_pretrained(folder, **options).eval().requires_grad_(False)


def logits(run: Any) -> Tensor:
    """Return the logits [1, 16, 512] of ``run``, the model or what was compiled of it."""
    words = torch.randint(0, 512, (1, 16), generator=torch.Generator().manual_seed(1))
    result: Tensor = run(input_ids=words, use_cache=False).logits
    return result


def answers(folder: str, plan: str) -> dict[str, Any]:
    """Return what this process sees of the model, cut by ``plan``: "auto" or "parallelize_module"."""
    return seen(cut(folder, plan), logits)


def cut(folder: str, plan: str) -> Any:
    """Return the model of :func:`save`, cut by ``plan``."""
    return _auto(folder) if plan == "auto" else _parallelized(folder)


def stored(folder: str, recipe: str, again: str) -> dict[str, Any]:
    """Return what this process sees of a low-bit checkpoint, cut by transformers' plan as it is read; it is saved to ``again``."""
    model = _auto(folder)
    model.save_pretrained(again)
    found = seen(model, logits, recipe)
    return found if recipe != "int8" else found | {"shared": seen(model, logits, recipe, tp_scales="shared")["sites"]}


def _auto(folder: str) -> Any:
    from transformers.distributed import DistributedConfig

    return load(folder, distributed_config=DistributedConfig(tp_size=dist.get_world_size(), tp_plan="auto"))


def _parallelized(folder: str) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    plan: dict[str, Any] = {name: ColwiseParallel() for name in BY_ROWS} | {name: RowwiseParallel() for name in BY_COLUMNS}
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return parallelize_module(load(folder), mesh, {**plan, HEAD: ColwiseParallel(output_layouts=Replicate())})
