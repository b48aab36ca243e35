"""What a linear that trains computes: its three products, as data, under the name that its ops take."""

from dataclasses import dataclass, replace

from torch import Tensor

from lowbit_compiler.runtime.products import Plan
from lowbit_compiler.runtime.training.backward import Backward
from lowbit_compiler.runtime.training.steps import at

FORWARD, GRAD_INPUT, GRAD_WEIGHT = "forward", "dX", "dW"
PRODUCTS = (FORWARD, GRAD_INPUT, GRAD_WEIGHT)


@dataclass(frozen=True)
class TrainingPlan:
    """``forward`` is y = x w^T, ``grad_input`` dX = dY w, ``grad_weight`` dW = dY^T x, each with its own operands."""

    forward: Plan
    grad_input: Backward
    grad_weight: Backward

    @property
    def learns(self) -> bool:
        """Whether step sizes of both operands of the forward product may be parameters of the model."""
        return self.forward.x is not None and self.forward.x.scale.learns and self.forward.w.scale.learns

    def at(self, x_step: Tensor | None, w_step: Tensor | None) -> "TrainingPlan":
        """Return the plan with these step sizes float [1] of its forward product; as it is, with the statistic of each call, for None."""
        if x_step is None or w_step is None:
            return self
        assert self.forward.x is not None
        return replace(self, forward=replace(self.forward, x=at(self.forward.x, x_step), w=at(self.forward.w, w_step)))

    @property
    def names(self) -> dict[str, str]:
        """What each product multiplies, for people."""
        x = "float" if self.forward.x is None else self.forward.x.name
        treated = "" if self.forward.treatment.name == "none" else f" {self.forward.treatment.name}"
        return dict(zip(PRODUCTS, (f"{x} x {self.forward.w.name}{treated}", self.grad_input.name, self.grad_weight.name), strict=True))
