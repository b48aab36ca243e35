"""Converters for torch_tensorrt: networks of TensorRT-RTX with the values that torch has, computed with NumPy, and built."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import networks
from helpers.networks import trt
from lowbit_compiler.exits.torch_tensorrt.converters import CONVERTERS, MIDDLE, codes_as_float, quantize_s8, rotate
from lowbit_compiler.exits.torch_tensorrt.network import in_halves
from lowbit_compiler.runtime.formats import operand
from lowbit_compiler.runtime.formats.lines import Lines

ops = torch.ops.lowbit
TYPES = {torch.float32: trt.DataType.FLOAT, torch.int8: trt.DataType.INT8}
EPS = 2.0**-24
WEIGHTS: dict[str, Any] = {word: operand(word, 32) for word in ("int2", "int3", "int4", "int4-symmetric", "int4-zeros", "ternary")}


def rows(shape: Sequence[int]) -> Tensor:
    """Rows with an outlier, of zeros, tiny, and with NaN and Inf."""
    x = torch.randn(*shape)
    x[..., 3] *= 50
    x.view(-1, shape[-1])[1:5] = torch.tensor([[0.0], [1e-38], [torch.nan], [torch.inf]])
    return x


def converted(op: Any, *args: Any) -> tuple[networks.Recorded, list[Tensor], Any]:
    """Return a network of ``op``, whose first dimension may change, its results computed on ``args``, and its tensors."""
    converter, net, inputs, given = CONVERTERS[op], networks.network(), {}, []
    assert converter.fits(*args)
    for place, arg in enumerate(args):
        if not isinstance(arg, Tensor):
            given.append(arg)
        elif place in converter.constants:
            given.append(arg.numpy())
        else:
            inputs[f"x{place}"] = arg.numpy()
            given.append(networks.given(net, f"x{place}", TYPES[arg.dtype], (-1, *arg.shape[1:])))
    results = converter.layers(net, *given)
    made = results if isinstance(results, tuple) else (results,)
    values = networks.computed(net, inputs)
    return net, [torch.from_numpy(values[each.name]) for each in made], made


def require_same(op: Any, *args: Any) -> None:
    """Assert that the network computes what torch does, to the bit."""
    expected = op(*args)
    _, got, _ = converted(op, *args)
    for mine, theirs in zip(got, expected if isinstance(expected, tuple) else (expected,), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape", [(7, 128), (2, 3, 64)])
def test_rows(shape: tuple[int, ...]) -> None:
    x = rows(shape)
    q, scale = ops.quantize_s8.default(x)
    _, (mine, unit), _ = converted(ops.quantize_s8.default, x)
    torch.testing.assert_close(unit, scale, rtol=0, atol=0, equal_nan=True)
    regular = ~scale.isnan().expand_as(q)
    assert torch.equal(mine[regular], q[regular])
    require_same(ops.codes_as_float.default, q)
    require_same(ops.dequantize_s8.default, q, scale, torch.float32)


@pytest.mark.parametrize("shape", [(7, 128), (2, 3, 64)])
def test_rotation(shape: tuple[int, ...]) -> None:
    require_same(ops.rotate.default, torch.randn(*shape))
    assert not CONVERTERS[ops.rotate.default].fits(torch.randn(3, 96)), "there would have to be zeros behind"


def test_columns() -> None:
    require_same(ops.dequantize_columns.default, torch.randint(-127, 128, (96, 48), dtype=torch.int8), torch.rand(48))
    require_same(ops.dequantize_groups.default, torch.randint(-8, 8, (96, 48), dtype=torch.int8), torch.rand(3, 48), 32)


def quantized(word: str, k: int = 96) -> tuple[Any, tuple[Any, ...]]:
    """Return the op that dequantizes a weight [48, ``k``] with a group of zeros, and its arguments."""
    w = torch.randn(48, k)
    w[3, :32] = 0
    kind = WEIGHTS[word]
    return kind.op("dequantize"), (*kind.quantize(w), *kind.arguments, torch.float32)


@pytest.mark.parametrize("k", [96, 80])
@pytest.mark.parametrize("word", WEIGHTS)
def test_weights(word: str, k: int) -> None:
    """Of whole groups, and with a part of one. To the bit, but for codes that are stored less 8: both of the products and both of the sums of a number are rounded once."""
    op, args = quantized(word, k)
    _, (got,), _ = converted(op, *args)
    error, scale = (got - op(*args)).double().abs(), WEIGHTS[word].scale
    if not isinstance(scale, Lines):
        assert not error.any()
        return
    slope, start = (part.double() for part in scale.line(*args[1:4]))
    assert (error <= scale.spread(4 * EPS * (2 * MIDDLE * slope.abs() + start.abs()), k)).all()


def test_what_does_not_fit_is_left_to_torch() -> None:
    op, (q, *rest) = quantized("int4")
    assert not CONVERTERS[op].fits(q[:, :95], *rest), "two codes share a byte"
    assert not CONVERTERS[op].fits(q, *rest[:-1], torch.bfloat16), "another dtype"


@pytest.mark.parametrize("word", WEIGHTS)
def test_engines_hold_codes_of_few_bits(word: str) -> None:
    """Built for compute capability 8.9, with a product of rows that are rotated and quantized; the packed codes are in it."""
    op, args = quantized(word)
    net, _, (weight,) = converted(op, *args)
    x = networks.given(net, "x", trt.DataType.FLOAT, (-1, 2, 64))
    q, scale = quantize_s8(net, rotate(net, x))
    rows = net.both("PROD", codes_as_float(net, q), scale)
    side = net.definition.add_matrix_multiply(
        net.reshaped(rows, -1, 64), trt.MatrixOperation.NONE, net.constant(np.ones((64, 96), np.float32)), trt.MatrixOperation.NONE
    )
    product = net.definition.add_matrix_multiply(side.get_output(0), trt.MatrixOperation.NONE, weight, trt.MatrixOperation.TRANSPOSE)
    net.definition.mark_output(product.get_output(0))
    engine = networks.built(net, {"x": ((1, 2, 64), (4, 2, 64), (16, 2, 64))})
    (codes,) = net.codes.values()
    assert any(in_halves(each).tobytes() in engine for each in (codes, codes.T)), "of rows with one scale TensorRT turns them"
