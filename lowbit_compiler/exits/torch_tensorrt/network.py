"""A network of TensorRT under construction, with NumPy arrays as its constants."""

from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Value = Any
"""A tensor of the network."""


@dataclass(frozen=True)
class Network:
    """Layers that are added to ``definition``, of the module ``trt``: "tensorrt", or that of TensorRT-RTX."""

    trt: ModuleType
    definition: Any
    name: str = ""
    """Begins the names of the layers."""
    kept: list[Any] = field(default_factory=list)
    """What must live until the engine is built: TensorRT reads constants where they are."""

    def constant(self, array: Array) -> Value:
        """Return a constant of the dtype of ``array``."""
        return self._constant(self.trt.Weights(self._keep(np.ascontiguousarray(array))), array.shape)

    def four_bits(self, codes: Array) -> Value:
        """Return a constant of the type INT4: ``codes`` [..., K] from -8 to 7, K even."""
        packed = self._keep(in_halves(codes))
        return self._constant(self.trt.Weights(self.trt.DataType.INT4, packed.ctypes.data, codes.size), codes.shape)

    def number(self, value: float, like: Value) -> Value:
        """Return a float32 constant of as many dimensions as ``like``, each of size 1."""
        return self.constant(np.full((1,) * len(like.shape), value, np.float32))

    def unary(self, operation: str, x: Value) -> Value:
        """Return an operation of trt.UnaryOperation on each element."""
        return self._named(self.definition.add_unary(x, getattr(self.trt.UnaryOperation, operation)))

    def both(self, operation: str, a: Value, b: Value) -> Value:
        """Return an operation of trt.ElementWiseOperation on two tensors of as many dimensions."""
        return self._named(self.definition.add_elementwise(a, b, getattr(self.trt.ElementWiseOperation, operation)))

    def of_rows(self, operation: str, x: Value) -> Value:
        """Return an operation of trt.ReduceOperation along the last axis, which stays, of size 1."""
        last = 1 << (len(x.shape) - 1)
        return self._named(self.definition.add_reduce(x, getattr(self.trt.ReduceOperation, operation), last, True))

    def where(self, condition: Value, a: Value, b: Value) -> Value:
        """Return ``a`` where ``condition``, else ``b``."""
        return self._named(self.definition.add_select(condition, a, b))

    def rounded(self, x: Value) -> Value:
        """Return ``x`` as int8: quantized with scale 1, which rounds half to even and saturates."""
        return self._named(self.definition.add_quantize(x, self.constant(np.ones((), np.float32)), self.trt.DataType.INT8))

    def numbers(self, codes: Value, scale: Array, axis: int | None = None) -> Value:
        """Return float32 ``codes`` times a float32 ``scale``: one, one for each index of ``axis``, or one for each block along the last axis."""
        layer = self.definition.add_dequantize(codes, self.constant(scale), self.trt.DataType.FLOAT)
        if axis is not None:
            layer.axis = axis
        return self._named(layer)

    def product(self, a: Value, b: Value) -> Value:
        """Return the matrix product of tensors of as many dimensions; leading ones broadcast."""
        plain = self.trt.MatrixOperation.NONE
        return self._named(self.definition.add_matrix_multiply(a, plain, b, plain))

    def reshaped(self, x: Value, *sizes: int) -> Value:
        """Return ``x`` in ``sizes``, where 0 is the size that it has there."""
        layer = self.definition.add_shuffle(x)
        layer.reshape_dims = sizes
        return self._named(layer)

    def _constant(self, weights: Any, shape: tuple[int, ...]) -> Value:
        return self._named(self.definition.add_constant(shape, weights))

    def _keep(self, array: Array) -> Array:
        self.kept.append(array)
        return array

    def _named(self, layer: Any) -> Value:
        layer.name = f"{self.name} {layer.name}".strip()
        return layer.get_output(0)


def in_halves(codes: Array) -> Array:
    """Return ``codes`` [..., K] of 4 bits as bytes [..., K / 2], the first of two in the lower bits."""
    low, high = (codes.astype(np.uint8)[..., first::2] & 15 for first in (0, 1))
    return np.ascontiguousarray(low | high << 4)
