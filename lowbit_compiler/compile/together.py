"""What processes tell each other about a compiled graph whose weights they have parts of: packing these is a collective."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from lowbit_compiler.errors import OptionError, ProcessesDifferError
from lowbit_compiler.options import Options
from lowbit_compiler.passes.contract import Constant
from lowbit_compiler.torch_internals import collectives

STALE = -1
"""The number of values that are not up to date, or not there."""


@dataclass(frozen=True)
class Agreed:
    """What all processes answered: whether each has the same values for each constant, and the number of those that are computed now."""

    same: list[bool]
    number: int


class Together:
    """The processes that share scales of weights in one graph.

    A weight may be written to in one of them alone, and each looks at its own part. So every call asks all whether they are to run with values
    that were computed together: that is one small all-reduce. Values that were have one number, which no others have.
    """

    _following: ClassVar[int] = 0
    """Larger than every number in this process."""

    def __init__(self, constants: Sequence[Constant]) -> None:
        """Take those of ``constants`` whose scales are of several processes."""
        self.groups = tuple(dict.fromkeys(group for constant in constants for group in groups_of(constant)))
        said = [[str(node.target) for node in c.graph.nodes if node.op == "call_function"] for c in constants if groups_of(c)]
        self._digest = int.from_bytes(hashlib.sha256(repr(said).encode()).digest()[:7], "big")

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self.groups)

    def call(self, number: int, device: torch.device) -> bool:
        """Return whether all processes have the values of this ``number``; raises ProcessesDifferError where they do not run one graph."""
        least, most = self._ends([number], device)
        return least == most != [STALE]

    def load(self, numbers: Sequence[int], device: torch.device) -> Agreed:
        """Return what is up to date in all processes, of constants whose values have ``numbers``."""
        least, most = self._ends([*numbers, Together._following], device)
        Together._following = most[-1] + 1
        return Agreed([a == b != STALE for a, b in zip(least[:-1], most[:-1], strict=True)], most[-1])

    def _ends(self, numbers: Sequence[int], device: torch.device) -> tuple[list[int], list[int]]:
        """Return the least and the largest of each number over the processes."""
        ours = torch.tensor([self._digest, *numbers], device=device)
        both = torch.stack([ours, -ours])
        for group in self.groups:
            both = collectives.reduced(both, "max", group)
        most, least = both.tolist()
        if most[0] != -least[0]:
            raise ProcessesDifferError(
                "tp_scales='shared': the processes have compiled different graphs for this call; give all of them the same model, options, "
                "environment and shapes of inputs"
            )
        return [-one for one in least[1:]], most[1:]


def require_alone(options: Options) -> None:
    """Raise OptionError for scales of several processes: what looks at one product at a time looks at what this process has of it."""
    if options.tp_scales != "local":
        raise OptionError(f"option 'tp_scales' takes 'local' here: each process looks at its own products; got {options.tp_scales!r}")


def groups_of(constant: Constant) -> tuple[str, ...]:
    """Return the groups of processes that the scales of ``constant`` are of; none for a bias."""
    return () if constant.operand is None else constant.operand.scale.processes
