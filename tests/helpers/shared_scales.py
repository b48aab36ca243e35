"""Products of several processes whose scales are those of one device: run by helpers/ranks.py."""

from typing import Any

import torch.distributed as dist
from torch import nn

from helpers import parallel_llama
from helpers.tensor_parallel import _plan, block, rows, seen


def llama(folder: str, plan: str, remainder: str) -> dict[str, Any]:
    """Return what this process sees of the model of helpers/parallel_llama.py."""
    return seen(parallel_llama.cut(folder, plan), parallel_llama.logits, tp_scales="shared", remainder=remainder)


def blocks() -> dict[str, Any]:
    """Return what this process sees of the block cut in several ways."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import parallelize_module

    mesh, x = init_device_mesh("cpu", (dist.get_world_size(),)), rows()
    own = x.chunk(dist.get_world_size(), 1)[dist.get_rank()]
    found = {}
    model: nn.Module = parallelize_module(block(), mesh, _plan(sequence=False))
    found["rows"] = seen(model, lambda run: run(x), tp_scales="shared")
    found["inductor"] = seen(model, lambda run: run(x), tp_scales="shared", remainder="inductor")
    model = parallelize_module(block(), mesh, _plan(sequence=True))
    found["sequence"] = seen(model, lambda run: run(own), tp_scales="shared")
    return found
