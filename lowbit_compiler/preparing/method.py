"""What may be done with a block once its inputs are known."""

from abc import ABC, abstractmethod
from typing import ClassVar

from lowbit_compiler.preparing.block import Block
from lowbit_compiler.recipes import Recipe


class Method(ABC):
    """One way to lose less; methods.py lists them in the order in which they are applied."""

    name: ClassVar[str]
    rounds: ClassVar[bool] = False
    """Whether it chooses codes: of those only one is applied."""

    def __repr__(self) -> str:
        return self.name  # a checkpoint is of methods with one text: it says all settings that there are

    def check(self, recipe: Recipe) -> None:
        """Raise OptionError where the method makes nothing of the weights or activations of ``recipe``."""
        return

    @abstractmethod
    def apply(self, block: Block) -> None:
        """Give parts to linears of ``block``, or change its float parameters so that it computes the same."""
