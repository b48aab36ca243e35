"""Memory that must not be asked for: private to torch, which uses it for fake tensors."""

import torch
from torch import Tensor


def refuse_writing(tensor: Tensor) -> None:
    """Make whatever wants to write to the memory of ``tensor``, or save it, raise in torch instead of using a null pointer."""
    refuse = getattr(torch._C, "_set_throw_on_mutable_data_ptr", None)
    if refuse is not None:
        refuse(tensor)
