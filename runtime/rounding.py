"""How a number between two codes becomes one of them. All formats round to nearest so far: their ops take no rounding."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rounding:
    """``share`` is the largest error in gaps of the grid; ``random`` ones draw anew for each reader of an operand."""

    name: str
    share: float
    random: bool = False


NEAREST = Rounding("nearest", 0.5)
