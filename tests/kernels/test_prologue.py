"""What a row goes through before it is quantized, on every ISA: values against float64, layouts, special values, all treatments."""

import pytest
import torch
from torch import Tensor

from helpers import bounds, operands, plain
from lowbit_compiler.runtime import kernels
from lowbit_compiler.runtime.reference.prologue import FUNCTIONS, prologue

L = torch.ops.lowbit
EPS_NORM = 1e-5
SHAPES = [(1, 64), (2, 7), (5, 100), (33, 130), (70, 65)]
OTHERS = ("none", "row", "full")


def identity(k: int) -> Tensor:
    """Return a packed weight that multiplies by 1: what passes it unquantized comes out as it is."""
    return L.pack_s8(torch.eye(k, dtype=torch.int8), torch.ones(k, 1))


def operands_of(kind: str, m: int, k: int, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    g = operands.generator(5)
    times = {"none": None, "row": torch.randn(k, generator=g).to(dtype), "full": torch.randn(m, 2 * k, generator=g).to(dtype)[:, k:]}[kind]
    return times, torch.randn(k, generator=g) if kind == "row" else None


def expected(x: Tensor, function: str, times: Tensor | None, plus: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the float64 values and the bound of docs/arithmetic.md: in units of eps for each function, then the product and the sum."""
    v = x.double()
    k = v.shape[1]
    y = FUNCTIONS[function](v, EPS_NORM)
    if function == "gelu_tanh":  # 1 + tanh(u) cancels, even in float64
        y = v * torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (v + 0.044715 * v**3))
    if function == "layer_norm":
        spread = (v - v.mean(1, keepdim=True)).square().mean(1, keepdim=True) + EPS_NORM
        size = v.abs().amax(1, keepdim=True) / spread.sqrt()
        error = bounds.EPS * (k + 8) * (size + y.abs() * (1 + size))
    elif function == "rms_norm":
        error = bounds.EPS * (k + 8) * y.abs()
    elif function == "gelu":
        error = 2.0**-21 * v.abs()
    elif function in ("silu", "gelu_tanh"):
        error = bounds.EPS * (8 + 4 * v.abs().clamp(max=100) ** (3 if function == "gelu_tanh" else 1)) * y.abs() + 2.0**-120
    else:
        error = torch.zeros_like(v)
    if times is not None:
        y, error = y * times.double(), (error * (1 + bounds.EPS) + bounds.EPS * y.abs()) * times.double().abs()
    if plus is not None:
        error = error + bounds.EPS * (y.abs() + error + plus.double().abs())
        y = y + plus.double()
    return y, bounds.rounding(y, error + 2.0**-22 * y.abs() + bounds.FLUSHED, torch.float32)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", operands.DTYPES)
@pytest.mark.parametrize("other", OTHERS)
def test_values(isa: str, function: str, dtype: torch.dtype, other: str) -> None:
    """Every column is exact at threshold 0, so the identity shows the row as it would be quantized."""
    for m, k in SHAPES:
        x = (torch.randn(m, k, generator=operands.generator(m)) * 4).to(dtype)
        times, plus = operands_of(other, m, k, dtype)
        with kernels.using(isa=isa):
            y = L.linear_s8s8_columns(x, identity(k), None, k, 0.0, torch.float32, prologue=function, times=times, plus=plus, eps=EPS_NORM)
        bounds.assert_within(y, *expected(x, function, times, plus))


@pytest.mark.parametrize("function", ["silu", "gelu", "gelu_tanh", "relu"])
def test_far_values(isa: str, function: str) -> None:
    """Large numbers pass or vanish; what is not a number stays so; other rows are untouched."""
    far = torch.tensor([-3e38, -1e20, -1e4, -200.0, -90.0, -20.0, -1e-30, 0.0, 1e-30, 20.0, 90.0, 1e4, 1e20, 3e38])
    x = torch.stack([far, far.flip(0)])
    special = torch.stack([far.where(far != 1e20, torch.tensor(value)) for value in (torch.nan, torch.inf, -torch.inf)])
    k = len(far)
    with kernels.using(isa=isa):
        y = L.linear_s8s8_columns(x, identity(k), None, k, 0.0, torch.float32, prologue=function)
        odd = L.linear_s8s8(torch.cat([x[:1] / 1e20, special]), identity(k), None, k, torch.float32, prologue=function)
    bounds.assert_within(y, *expected(x, function, None, None))
    want = FUNCTIONS[function](special.double(), 0.0)
    want = torch.where(want.isfinite().all(1, keepdim=True), want, want @ torch.eye(k).double())  # as in a float product
    assert odd[0].isfinite().all()
    assert torch.equal(odd[1:].isfinite().all(1), want.isfinite().all(1))


@pytest.mark.parametrize("op", ["linear_s8s8", "linear_s8s8_rotated", "linear_s8s8_columns", "linear_s8s8_rows"])
@pytest.mark.parametrize(("function", "other"), [("silu", "full"), ("rms_norm", "row"), ("layer_norm", "row")])
@pytest.mark.parametrize("m", [1, 9, 80])
def test_as_if_computed_first(isa: str, op: str, function: str, other: str, m: int) -> None:
    """Every treatment, rows that int8 cannot hold among them: as the op on rows that went through the same before."""
    k, n = 1000, 50
    x = operands.rows(m, k, torch.bfloat16)
    x[m // 2, 3] = torch.inf
    times, plus = operands_of(other, m, k, torch.float32)
    w = operands.weight(n, k)
    packed, *_ = operands.packed_s8(plain.rotate(w) if op.endswith("rotated") else w)
    threshold = [6.0] if op == "linear_s8s8_columns" else []
    given = {"prologue": function, "times": times, "plus": plus, "eps": EPS_NORM}
    with kernels.using(isa=isa):
        y = getattr(L, op)(x, packed, None, n, *threshold, torch.float32, **given)
        first = L.linear_s8s8_columns(x, identity(k), None, k, 0.0, torch.float32, **given)
        want = getattr(L, op)(first, packed, None, n, *threshold, torch.float32)
    held = first.isfinite().all(1)
    assert torch.equal(held, y.isfinite().all(1))
    assert held.sum() == m - 1
    # `first` may differ from the row in the last bit, and so a code by one, in few places: 1/127 of the row's largest times a weight.
    flip = first[held].abs().amax(1, keepdim=True) / 127 * w.abs().max()
    assert ((y - want)[held].abs() <= 4 * flip + 1e-5 * want[held].abs()).all()
    assert getattr(L, op)(x, packed, None, n, *threshold, None, **given).dtype is torch.bfloat16


@pytest.mark.parametrize("layout", ["expanded", "columns", "one dimension", "no rows", "k = 1"])
def test_layouts(isa: str, layout: str) -> None:
    k = 1 if layout == "k = 1" else 40
    x = torch.randn(3, 5, k, generator=operands.generator(0))
    times = torch.randn(5, k, generator=operands.generator(1), dtype=torch.float64).half()
    if layout == "columns":
        times = torch.randn(3, k, 5, generator=operands.generator(1)).bfloat16().mT
    elif layout == "one dimension":
        x, times = x[0, 0], times[0]
    elif layout == "no rows":
        x, times = x[:, :0], times[:0].expand(3, 0, k)
    else:
        times = times.expand(3, 5, k)
    with kernels.using(isa=isa):
        y = L.linear_s8s8_columns(x, identity(k), None, k, 0.0, torch.float32, prologue="relu", times=times)
    assert y.shape == x.shape
    bounds.assert_within(y.reshape(-1, k), *expected(x.reshape(-1, k), "relu", times.reshape(-1, k), None))


@pytest.mark.parametrize("where", ["times", "plus"])
def test_special_values_of_the_other_operands(isa: str, where: str) -> None:
    x, row = torch.rand(3, 70) + 0.5, torch.ones(70)
    row[7] = torch.nan
    with kernels.using(isa=isa):
        y = L.linear_s8s8(x, identity(70), None, 70, None, **{where: row})
    assert y.isnan().all()  # as in a float product: 0 * NaN


def test_reference_is_float32() -> None:
    x = torch.randn(3, 8, dtype=torch.bfloat16)
    assert prologue(x, "silu", x, None, 0.0).dtype is torch.float32


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prologue": "tanh"}, "one of silu, gelu, gelu_tanh, relu, rms_norm, layer_norm or empty, got 'tanh'"),
        ({"times": torch.ones(9)}, r"times of shape \(10,\) or that of x, \(2, 3, 10\), got \(9,\)"),
        ({"times": torch.ones(3, 10)}, r"times of shape \(10,\) or that of x, \(2, 3, 10\), got \(3, 10\)"),
        ({"times": torch.ones(10, dtype=torch.int32)}, "times in float32, bfloat16 or float16, got torch.int32"),
        ({"plus": torch.ones(2, 3, 10)}, r"plus of shape \(10,\), got \(2, 3, 10\)"),
        ({"plus": torch.ones(10, dtype=torch.float64)}, "plus in float32, bfloat16 or float16, got torch.float64"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_bad_arguments(arguments: dict[str, object], words: str, device: str) -> None:
    x, packed = torch.randn(2, 3, 10), identity(10)
    moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in arguments.items()}
    with pytest.raises(RuntimeError, match=words):
        L.linear_s8s8(x.to(device), packed.to(device), None, 10, None, **moved)
