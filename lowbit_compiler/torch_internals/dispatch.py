"""The types of torch's ops, which kernels they have, and modes that see every call of one."""

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["HigherOrderOperator", "OpOverload", "OpOverloadPacket", "TorchDispatchMode", "enable_python_dispatcher", "has_kernel"]


def has_kernel(op: OpOverload, device: str) -> bool:
    """Return whether ``op`` has a kernel registered for ``device`` ("cpu", "cuda") alone: not one that runs anywhere."""
    return op.has_kernel_for_dispatch_key(getattr(torch._C.DispatchKey, device.upper()))
