"""4-bit floats e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 with a sign, in blocks of 32 (MXFP4) or 16 (NVFP4)."""

from dataclasses import dataclass

from lowbit_compiler.runtime.formats.format import Format
from lowbit_compiler.runtime.formats.grid import Floats
from lowbit_compiler.runtime.formats.scales import Nested, PowersOfTwo


@dataclass(frozen=True)
class FP4(Format):
    """MXFP4 has a power of two for each block (OCP Microscaling 1.0), NVFP4 an e4m3 number, under one float32 scale for the tensor."""

    name = "fp4"
    scales = (PowersOfTwo, Nested)
    words = ("mxfp4", "nvfp4")
    onnx = ("FLOAT4E2M1", 23)
    grid = Floats(2, 1, top=2)


FORMATS = (FP4,)
