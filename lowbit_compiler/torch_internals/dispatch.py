"""The types of torch's ops, and modes that see every call of one."""

from torch._dispatch.python import enable_python_dispatcher
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["HigherOrderOperator", "OpOverload", "OpOverloadPacket", "TorchDispatchMode", "enable_python_dispatcher"]
