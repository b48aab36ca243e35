"""FSDP2 (``fully_shard``): which parameters its hooks put together from all processes before a module runs, and take apart after it."""

import sys
from typing import Any

from torch import Tensor, nn


def gathered(module: nn.Module) -> list[Tensor]:
    """Return the whole parameters that ``module``, if ``fully_shard`` was called on it, has while it runs; they exist from its first call on."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(fsdp, "FSDPModule", None)
    if kind is None or not isinstance(module, kind):
        return []
    state: Any = module._get_fsdp_state()
    whole = [getattr(held, "_unsharded_param", None) for group in state._fsdp_param_groups for held in group.fsdp_params]
    return [parameter for parameter in whole if parameter is not None]
