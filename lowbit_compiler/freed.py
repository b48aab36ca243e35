"""Parameters whose float values free_weights released: what would save, copy or fill them says so, instead of reading address 0."""

import weakref
from typing import Any

from torch import Tensor

from lowbit_compiler.errors import WeightFreedError
from lowbit_compiler.runtime.weights import is_freed
from lowbit_compiler.torch_internals.storages import refuse_writing

REFUSED = ("detach", "clone", "copy_", "__deepcopy__", "__reduce_ex__")
"""What state_dict, torch.export, load_state_dict, copy.deepcopy, pickle and torch.save call on a parameter."""


class _Refusal:
    """A method of one parameter that raises as long as this is released, and works again once it has other memory."""

    def __init__(self, tensor: Tensor, name: str) -> None:
        self._tensor, self._name = weakref.ref(tensor), name  # no cycle: packed weights would wait for the garbage collector

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tensor = self._tensor()
        if tensor is None:
            raise ReferenceError("the parameter is gone")
        if is_freed(tensor):
            raise WeightFreedError(
                f"free_weights=True released the float values of this parameter of shape {tuple(tensor.shape)}, so the model can no longer be "
                "saved, exported, copied or filled: do that before the first call, load it anew, or compile without free_weights"
            )
        return getattr(type(tensor), self._name)(tensor, *args, **kwargs)


def refuse_use(tensor: Tensor) -> None:
    """Let saving, copying and filling ``tensor``, whose memory is released, raise WeightFreedError."""
    if not is_freed(tensor):
        return
    refuse_writing(tensor)
    for name in REFUSED:
        tensor.__dict__[name] = _Refusal(tensor, name)
