"""Weights that are read in fewer bits from the start, as ``lowbit.switch_bits`` has said for their modules."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lowbit_compiler.passes.contract import Constant
from lowbit_compiler.runtime.formats import SWITCHABLE, Format
from lowbit_compiler.runtime.weights import where
from lowbit_compiler.runtime.widths import known


@dataclass(frozen=True)
class Narrowed:
    """What becomes of the outputs of a constant whose weight is of ``format`` and read in ``bits`` bits."""

    format: type[Format]
    bits: int
    packed: bool
    """Whether the output is a packed weight, which says its width, or codes and scales, which are rounded (for files)."""

    def __call__(self, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the outputs, of which a packed weight is changed in place."""
        if not self.packed:
            return self.format().narrow(values, self.bits)
        assert self.format.panels is not None
        self.format.panels.switch(values[0], self.bits)
        return values


def narrowed(constant: Constant, sources: Sequence[Tensor]) -> Narrowed | None:
    """Return what is to become of the outputs of ``constant``; None: nothing. Of weights of several widths the largest counts."""
    if constant.operand is None or constant.operand.kind not in SWITCHABLE:
        return None
    found = known()
    widths = [found[place] for place in map(where, sources) if place in found]
    return Narrowed(constant.operand.kind[0], max(widths), constant.parts == ("packed",)) if widths else None
