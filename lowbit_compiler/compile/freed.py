"""Parameters whose float values free_weights released: what would save, copy or fill them says so, instead of reading address 0."""

import weakref
from typing import Any

from torch import Tensor

from lowbit_compiler.errors import WeightFreedError
from lowbit_compiler.runtime.weights import is_freed
from lowbit_compiler.torch_internals.storages import refuse_writing

REFUSED = ("detach", "clone", "copy_", "to", "float", "double", "half", "bfloat16", "__deepcopy__", "__reduce_ex__")
"""What state_dict, load_state_dict, conversions of a module, copy.deepcopy, pickle and torch.save call on a parameter."""


class _Refusal:
    """A method of one parameter that raises as long as this is released, and works again once it has other memory.

    It has the attributes of a bound method, by which Dynamo knows that a graph calls the tensor's own: a weight that the graph converts
    before a product is packed already, and must not stop the model from being traced for another shape.
    """

    def __init__(self, tensor: Tensor, name: str) -> None:
        self._tensor, self.__name__ = weakref.ref(tensor), name  # no cycle: packed weights would wait for the garbage collector

    @property
    def __self__(self) -> Tensor | None:
        return self._tensor()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tensor = self._tensor()
        if tensor is None:
            raise ReferenceError("the parameter is gone")
        if is_freed(tensor):
            raise WeightFreedError(
                f"free_weights=True released the float values of this parameter of shape {tuple(tensor.shape)}, so the model can no longer be "
                "saved, exported, copied or filled: do that before the first call, load it anew, or compile without free_weights"
            )
        return getattr(type(tensor), self.__name__)(tensor, *args, **kwargs)


def refuse_use(tensor: Tensor) -> None:
    """Let saving, copying and filling ``tensor``, whose memory is released, raise WeightFreedError."""
    if not is_freed(tensor):
        return
    refuse_writing(tensor)
    for name in REFUSED:
        tensor.__dict__[name] = _Refusal(tensor, name)
