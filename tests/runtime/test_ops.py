"""Every op: schema, shape function, reference and kernel agree; wrong input has the same words everywhere."""

import pytest
import torch

from helpers import operands
from helpers.samples import K, N, samples
from lowbit_compiler.runtime import ops, reference

L = torch.ops.lowbit


OPS = sorted(samples())


def test_every_op_is_sampled():
    defined = {name.removeprefix("lowbit::") for name in torch._C._dispatch_get_all_op_names() if name.startswith("lowbit::")}
    assert defined == set(OPS)


SEARCHED = pytest.param("quantize_u2", marks=pytest.mark.model)
"""The search of its lines is seen by compilers: with symbolic sizes, ten seconds. tests/e2e/test_emulated.py compiles it for every batch."""


@pytest.mark.parametrize("op", [SEARCHED if op == "quantize_u2" else op for op in OPS])
def test_opcheck(op):
    torch.library.opcheck(getattr(L, op).default, samples()[op])


@pytest.mark.parametrize("op", [op for op in ops.LINEAR_SCHEMAS if op.startswith("linear_s8")])
def test_opcheck_with_prologue(op):
    arguments = samples()[op]
    fused = {"prologue": "layer_norm", "times": torch.randn(5, K), "plus": torch.randn(K), "eps": 1e-5}
    torch.library.opcheck(getattr(L, op).default, arguments, fused)


@pytest.mark.parametrize("op", OPS)
def test_schema_is_functional(op):
    schema = getattr(L, op).default._schema
    assert not schema.is_mutable
    assert all(argument.alias_info is None for argument in (*schema.arguments, *schema.returns))


@pytest.mark.parametrize("op", OPS)
def test_has_reference(op):
    visible = ("CompositeImplicitAutograd",)  # to every compiler
    opaque = ("CompositeExplicitAutograd", "Meta")
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    assert any(all(has(f"lowbit::{op}", key) for key in keys) for keys in (visible, opaque))


WRONG = {
    "dtype of x": (lambda a: (a[0].double(), *a[1:]), "expected x in float32, bfloat16 or float16, got torch.float64"),
    "K": (lambda a: (a[0][:, :60], *a[1:]), "bytes for K = 60, got"),
    "n": (lambda a: (*a[:3], 49, *a[4:]), "expected 4 panels for n = 49, got 3"),
    "dtype of w": (lambda a: (a[0], a[1].view(torch.uint8), *a[2:]), "expected w packed as int8 [panels, bytes], got torch.uint8 of 2 dim"),
    "dim of w": (lambda a: (a[0], a[1][0], *a[2:]), "expected w packed as int8 [panels, bytes], got torch.int8 of 1 dim"),
    "bias": (lambda a: (*a[:2], torch.randn(2, 3), *a[3:]), "expected bias of shape (33,), got (2, 3)"),
    "bias dtype": (lambda a: (*a[:2], torch.ones(N).long(), *a[3:]), "expected bias in float32, bfloat16 or float16, got torch.int64"),
    "out dtype": (lambda a: (*a[:-1], torch.int32), "expected dtype float32, bfloat16 or float16, got torch.int32"),
    "scalar x": (lambda a: (torch.tensor(1.0), *a[1:]), "expected x with at least one dimension, got 0 dimensions"),
}


@pytest.mark.parametrize("op", sorted(ops.LINEAR_SCHEMAS))
@pytest.mark.parametrize("what", WRONG)
def test_same_words_from_fake_and_kernel(op, what):
    change, words = WRONG[what]
    arguments = change(samples()[op])
    meta = [a.to("meta") if isinstance(a, torch.Tensor) else a for a in arguments]
    for call in (arguments, meta):
        with pytest.raises(RuntimeError) as error:
            getattr(L, op)(*call)
        assert f"lowbit::{op}: " in str(error.value)
        assert words in str(error.value)


@pytest.mark.parametrize("group", [0, 16, 48, 256])
def test_group(group):
    arguments = samples()["linear_fs4"]
    for device in ("cpu", "meta"):
        with pytest.raises(RuntimeError, match=rf"lowbit::linear_fs4: expected group in \(32, 64, 128\), got {group}"):
            L.linear_fs4(arguments[0].to(device), arguments[1].to(device), None, N, group, None)


@pytest.mark.parametrize("dim", [0, -1])
@pytest.mark.parametrize("mask", [None, torch.tensor(True), torch.tensor(-2.0)])
def test_softmax_of_a_number(dim, mask):
    x = torch.tensor(3.0)
    for log in (False, True):
        expected = torch.tensor(0.0 if log else 1.0)
        assert torch.equal(L.softmax(x, dim, 1.0, mask, log, None), expected)
        assert torch.equal(reference.softmax.softmax(x, dim, 1.0, mask, log, None), expected)
        assert L.softmax(x.to("meta"), dim, 1.0, None if mask is None else mask.to("meta"), log, None).shape == ()
    torch.library.opcheck(L.softmax.default, (x, dim, 1.0, mask, False, None))
    for device in ("cpu", "meta"):
        with pytest.raises(RuntimeError, match=r"lowbit::softmax: expected dim from -1 to 0, got 1"):
            L.softmax(x.to(device), 1, 1.0, None, False, None)


def test_inside_a_compiled_function():
    x, packed, bias, n, dtype = samples()["linear_s8s8"]

    def f(a):
        return L.linear_s8s8(a * 2, packed, bias, n, dtype) + 1

    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")
    for m in (5, 9):
        a = operands.rows(m, K, x.dtype)
        assert torch.equal(compiled(a), f(a))
