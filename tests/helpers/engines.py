"""What recipes become for TensorRT-RTX: which device takes them, and what the file holds that an engine is built from."""

import math

import onnx
import pytest
from onnx import TensorProto

pytest.importorskip("tensorrt_rtx_bindings", reason="the extra tensorrt is not installed: make test does it on Linux, x86-64")

from lowbit_compiler.exits.tensorrt.engine import devices
from lowbit_compiler.exits.tensorrt.reader import refused
from lowbit_compiler.recipes import RECIPES, Recipe

TAKEN = tuple(name for name, recipe in RECIPES.items() if not refused(recipe.plan, max(devices())))
BITS = {TensorProto.INT4: 4, TensorProto.INT8: 8, TensorProto.FLOAT4E2M1: 4, TensorProto.FLOAT8E4M3FN: 8}
"""The types of codes that TensorRT-RTX takes."""


def capability_for(recipe: Recipe) -> str:
    """Return the first device from 8.9 on that takes a recipe."""
    return next(".".join(map(str, each)) for each in sorted(devices()) if each >= (8, 9) and not refused(recipe.plan, each))


def require_codes_before_dequantize(proto: onnx.ModelProto) -> int:
    """Assert that constants of few bits are read by DequantizeLinear (zero points by QuantizeLinear) alone; returns their elements."""
    found = {tensor.name: tensor for tensor in proto.graph.initializer if tensor.data_type in BITS}
    for node in proto.graph.node:
        if read := set(node.input) & set(found):
            assert node.op_type == "DequantizeLinear" or not any(found[name].dims for name in read), (node.op_type, node.name)
    return sum(math.prod(tensor.dims) for tensor in found.values() if tensor.dims)


def stored_bytes(proto: onnx.ModelProto) -> int:
    """Return the bytes of all constants, codes in their own bits."""
    return sum(
        math.prod(tensor.dims) * BITS.get(tensor.data_type, 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize) // 8
        for tensor in proto.graph.initializer
    )


def large_floats(proto: onnx.ModelProto, elements: int) -> list[str]:
    """Return the names of float constants with ``elements`` or more."""
    return [
        tensor.name for tensor in proto.graph.initializer if tensor.data_type == TensorProto.FLOAT and math.prod(tensor.dims) >= elements
    ]
