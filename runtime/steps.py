"""Step sizes that a model learns: parameters of its linears, which graphs that train take beside the weight."""

import torch
from torch import Tensor, nn

from lowbit_compiler.runtime.attached import Attached

NAMES = ("lowbit_x_step", "lowbit_w_step")
"""What the parameters are called, of the activation and of the weight: float32 [1]."""


class Steps(Attached):
    """The step sizes of one module with a ``weight``."""

    attribute = "_lowbit_steps"

    @classmethod
    def give(cls, module: nn.Module, values: tuple[Tensor, Tensor]) -> None:
        """Let ``module`` have parameters of these ``values`` float32 [1]; where it has them already, they are set."""
        for name, value in zip(NAMES, values, strict=True):
            if name in module._parameters:
                with torch.no_grad():
                    module.get_parameter(name).copy_(value)
            else:
                module.register_parameter(name, nn.Parameter(value.to(module.get_parameter("weight").device)))
        if not isinstance(vars(module).get(cls.attribute), cls):
            cls(module).attach()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The parameters as the module has them now, that of the activation first; none where the module has gone or has lost them."""
        module = self.module
        found = [] if module is None else [module._parameters.get(name) for name in NAMES]
        return tuple(one for one in found if one is not None)


def known() -> dict[int, Steps]:
    """Return all there are in this process, by the ids of the weights as the modules have them now."""
    found = {id(one.module._parameters.get("weight")): one for one in Steps.everywhere() if one.module is not None and one.tensors}
    found.pop(id(None), None)
    return found
