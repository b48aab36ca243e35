"""Autocast regions: switched off altogether, and as Dynamo writes them into graphs."""

from typing import Any

import torch

disabled: Any = torch._C._DisableAutocast
"""``with disabled():`` computes in the dtypes of the operands, on every device."""

ENTER: Any = torch.amp.autocast_mode._enter_autocast
"""What a graph calls where a region starts, with the arguments of torch.autocast."""

EXIT: Any = torch.amp.autocast_mode._exit_autocast
"""What a graph calls where a region ends, with the value of ENTER."""
