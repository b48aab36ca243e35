"""One scale for a row of which several processes each have a part."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowbit_compiler.runtime.formats.scales import Row, Scale, largest
from lowbit_compiler.torch_internals import collectives

SIGN = 0x7FFFFFFF
"""All bits of a float32 but that of its sign."""


@dataclass(frozen=True)
class SharedRow(Row):
    """The scale of the whole row, of which this process has a part along K: what all of ``groups`` have as their largest magnitude.

    Quantizing is a collective: every process of the groups does it at the same time, or it waits for them.
    """

    groups: tuple[str, ...] = ()

    suffix: ClassVar[str] = "_shared"
    schema: ClassVar[str] = "str[] groups"
    row_local: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """As ops pass them: a list."""
        object.__setattr__(self, "groups", tuple(self.groups))

    @property
    def name(self) -> str:
        """Of the processes, no names: those are the run's."""
        return "shared"

    @property
    def arguments(self) -> tuple[list[str]]:
        """The groups."""
        return (list(self.groups),)

    @property
    def processes(self) -> tuple[str, ...]:
        """The groups."""
        return self.groups

    def over(self, groups: tuple[str, ...]) -> Scale:
        """Take other groups."""
        return SharedRow(groups)

    def reach(self, blocks: Tensor) -> Tensor:
        """Return the largest magnitude in all parts; as integers NaN is larger than all, whatever a group makes of it as a float."""
        bits = largest(blocks).view(torch.int32) & SIGN
        for group in self.groups:
            bits = collectives.reduced(bits, "max", group)
        return bits.view(torch.float32)
