"""4-bit floats e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 with a sign, in blocks of 32 (MXFP4) or 16 (NVFP4)."""

from dataclasses import dataclass

from lowbit_compiler.runtime.formats.format import Format
from lowbit_compiler.runtime.formats.grid import Floats, Grid
from lowbit_compiler.runtime.formats.scales import Nested, PowersOfTwo, Scale

GRID = Floats(2, 1, top=2)


@dataclass(frozen=True)
class FP4(Format):
    """MXFP4 has a power of two for each block (OCP Microscaling 1.0), NVFP4 an e4m3 number, under one float32 scale for the tensor."""

    name = "fp4"
    scales = (PowersOfTwo, Nested)
    words = ("mxfp4", "nvfp4")
    onnx = ("FLOAT4E2M1", 23)

    @property
    def grid(self) -> Grid:
        """The numbers above."""
        return GRID

    @classmethod
    def spelled(cls, word: str, group: int) -> tuple[Format, Scale] | None:
        """Return either; blocks have their own size."""
        scales = dict(zip(cls.words, (PowersOfTwo(), Nested()), strict=True))
        return (cls(), scales[word]) if word in scales else None


FORMAT = FP4
