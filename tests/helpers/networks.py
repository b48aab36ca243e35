"""Networks of TensorRT computed with NumPy in float32, layer by layer: there is no GPU to run an engine on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="the extra tensorrt is not installed: make test does it on Linux, x86-64")

from lowbit_compiler.exits.torch_tensorrt.network import Array, Network, Value

UNARY = {"ABS": np.abs, "ISNAN": np.isnan}
BOTH = {"PROD": np.multiply, "DIV": np.divide, "SUM": np.add, "LESS": np.less}
ROWS = {"MAX": np.fmax.reduce, "SUM": np.add.reduce}  # a maximum may skip NaN


@dataclass(frozen=True)
class Recorded(Network):
    """Beside the network, what its constants of 4 bits hold, which has no dtype in NumPy."""

    codes: dict[str, Array] = field(default_factory=dict)

    def four_bits(self, codes: Array) -> Value:
        """Read the codes back out of the packed bytes: the first of two in the lower bits, as in ONNX."""
        made = super().four_bits(codes)
        halves = np.stack([self.kept[-1] & 15, self.kept[-1] >> 4], -1).astype(np.int8)
        self.codes[made.name] = np.where(halves > 7, halves - 16, halves).reshape(codes.shape)
        return made


def network() -> Recorded:
    """Return an empty one; its builder goes with it."""
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    return Recorded(trt, builder.create_network(0), "test", [builder])


def built(net: Network, sizes: Mapping[str, tuple[Any, Any, Any]]) -> bytes:
    """Return an engine of ``net`` for compute capability 8.9, whose inputs have least, usual and largest ``sizes``."""
    (builder,) = (each for each in net.kept if isinstance(each, trt.Builder))
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    for name, each in sizes.items():
        profile.set_shape(name, *each)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(net.definition, config)
    assert engine is not None
    return bytes(engine)


def given(net: Network, name: str, dtype: Any, shape: tuple[int, ...]) -> Value:
    """Return an input of the network; a size of -1 may change."""
    return net.definition.add_input(name, dtype, shape)


def computed(net: Recorded, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return the values of all tensors of ``net``, by name, for ``inputs``."""
    values = dict(inputs)
    with np.errstate(all="ignore"):
        for index in range(net.definition.num_layers):
            layer = net.definition.get_layer(index)
            read = [values[layer.get_input(place).name] for place in range(layer.num_inputs)]
            kind = str(layer.type).rpartition(".")[2]
            layer.__class__ = getattr(trt, CLASSES[kind])
            result = LAYERS[kind](net, layer, *read)
            made = layer.get_output(0)
            assert len(made.shape) == np.ndim(result), (kind, made.shape, np.shape(result))
            assert all(size in (-1, got) for size, got in zip(made.shape, np.shape(result), strict=True)), (kind, made.shape)
            values[made.name] = result
    return values


def _constant(net: Recorded, layer: Any) -> Array:
    name = layer.get_output(0).name
    return net.codes[name] if name in net.codes else np.array(layer.weights).reshape(tuple(layer.shape))


def _of(functions: Mapping[str, Any], operation: Any) -> Any:
    return functions[str(operation).rpartition(".")[2]]


def _reduce(net: Recorded, layer: Any, x: Array) -> Array:
    (axis,) = [place for place in range(x.ndim) if layer.axes >> place & 1]
    result: Array = _of(ROWS, layer.op)(x, axis, keepdims=layer.keep_dims)
    return result


def _quantize(net: Recorded, layer: Any, x: Array, scale: Array) -> Array:
    return np.nan_to_num(np.clip(np.rint(x / scale), -128, 127)).astype(np.int8)


def _dequantize(net: Recorded, layer: Any, q: Array, scale: Array) -> Array:
    if scale.ndim == q.ndim > 0:
        for axis in range(q.ndim):
            scale = scale.repeat(q.shape[axis] // scale.shape[axis], axis)
    elif scale.ndim:
        scale = scale.reshape([-1 if axis == layer.axis else 1 for axis in range(q.ndim)])
    return q.astype(np.float32) * scale


def _shuffle(net: Recorded, layer: Any, x: Array) -> Array:
    return x.reshape([size or x.shape[place] for place, size in enumerate(layer.reshape_dims)])


CLASSES = {
    "CONSTANT": "IConstantLayer",
    "UNARY": "IUnaryLayer",
    "ELEMENTWISE": "IElementWiseLayer",
    "REDUCE": "IReduceLayer",
    "SELECT": "ISelectLayer",
    "QUANTIZE": "IQuantizeLayer",
    "DEQUANTIZE": "IDequantizeLayer",
    "MATRIX_MULTIPLY": "IMatrixMultiplyLayer",
    "SHUFFLE": "IShuffleLayer",
}
LAYERS = {
    "CONSTANT": _constant,
    "UNARY": lambda net, layer, x: _of(UNARY, layer.op)(x),
    "ELEMENTWISE": lambda net, layer, a, b: _of(BOTH, layer.op)(a, b),
    "REDUCE": _reduce,
    "SELECT": lambda net, layer, condition, a, b: np.where(condition, a, b),
    "QUANTIZE": _quantize,
    "DEQUANTIZE": _dequantize,
    "MATRIX_MULTIPLY": lambda net, layer, a, b: a @ b,
    "SHUFFLE": _shuffle,
}
