"""One call of every op, with arguments that it takes."""

from functools import cache

import torch

from helpers import operands
from lowbit_compiler.runtime.chain import FUNCTION, Kind, Step, encode
from lowbit_compiler.runtime.formats import WORDS, operand
from lowbit_compiler.runtime.formats.operand import op_name
from lowbit_compiler.runtime.products import PRODUCTS
from lowbit_compiler.runtime.reference.dense import pack_codes
from lowbit_compiler.runtime.treatments import Nothing

L = torch.ops.lowbit
K, N = 100, 33


@cache
def samples(dtype=torch.bfloat16):
    """One call of every op, made once: nobody writes to them."""
    x, w = operands.rows(5, K, dtype), operands.weight(N, K)
    q8, q4 = L.quantize_s8(w), L.quantize_s4(w, 32)
    packed, packed4, bias = L.pack_s8(*q8), L.pack_s4(*q4, 32), torch.randn(N)
    q = x.reshape(1, 5, 4, K // 4).transpose(1, 2)
    turned, u8 = q8[0].t().contiguous(), L.quantize_unsigned(x)
    return {
        **_formats(x, w),
        "exponent": (w.abs(),),
        "padded_blocks": (x.float(), 64),
        "joined_blocks": (w.reshape(N, 4, K // 4), 70),
        "unpack_codes": (pack_codes(q4[0], 4), 4, True, K),
        "unpack": (packed4, "s4", [32], N, K, N),
        "product_f32": (x.float(), w, bias),
        "power": (torch.tensor([-130.0, -3.0, 0.0, 127.0]),),
        "rotate": (x,),
        "split_columns": (x, 6.0),
        "split_rows": (x,),
        "linear_s8s8": (x, packed, bias, N, None),
        "linear_s8s8_rotated": (x, L.pack_s8(*L.quantize_s8(L.rotate(w))), bias, N, torch.float32),
        "linear_s8d8": (x, L.pack_d8(*q8), bias, N, None),
        "linear_s8d8_rotated": (x, L.pack_d8(*L.quantize_s8(L.rotate(w))), bias, N, torch.float32),
        "linear_s8s8_columns": (x, packed, None, N, 6.0, None),
        "linear_s8s8_rows": (x, packed, None, N, None),
        "linear_fs8": (x, packed, bias, N, None),
        "linear_fs4": (x, packed4, None, N, 32, None),
        **_in_fixed_point(x, w),
        "quantize_unsigned": (x,),
        "product_u8s8": (u8[0], turned),
        "product_fs8": (x.float(), turned),
        "codes_as_float": q8[:1],
        "hit_columns": (x, 6.0),
        "product_columns": (x.float(), L.hit_columns(x, 6.0), turned),
        "dequantize_columns": (turned, q8[1].reshape(-1)),
        "dequantize_groups": (q4[0].t().contiguous(), q4[1].t().contiguous(), 32),
        "sdpa": (q, q[:, :2], q[:, 2:], torch.randn(1, 1, 5, 5), True, 0.25),
        "sdpa_codes": (q, *L.quantize_s8(q[:, :2]), *L.quantize_s8(q[:, 2:]), torch.randn(1, 1, 5, 5), True, 0.25),
        "chain": _chain(x, packed, bias),
        **_training(x, w, bias),
        **_shared(x, w, packed, bias),
        "softmax": (x, 1, 0.125, torch.randn(1, K), False, torch.float32),
    }


def _shared(x, w, packed, bias):
    """One process alone, whose parts of rows are the rows."""
    q, reach = L.quantize_s8(w), L.reach_s8(x, False)
    sums = L.sums_s8s8(x, reach, packed, N, False)
    return {
        "quantize_s8_shared": (x, []),
        "dequantize_s8_shared": (*q, [], torch.bfloat16),
        "pack_s8_shared": (*q, []),
        "reach_s8": (x, True),
        "sums_s8s8": (x, reach, packed, N, False),
        "scale_sums": (sums, reach, packed, bias, K, torch.bfloat16),
        "finish_sums": (x, sums, reach, packed, bias, False, [], torch.bfloat16),
        "linear_s8s8_shared": (x, packed, bias, N, [], None),
        "linear_s8s8_shared_rotated": (x, L.pack_s8(*L.quantize_s8(L.rotate(w))), bias, N, [], torch.float32),
    }


def _training(x, w, bias):
    """Forward and backward of a linear that trains, whose activation is clipped and whose gradient is drawn."""
    seed, recipe = torch.tensor([2**40 + 7]), "mxfp4-training"
    _, kept_x, kept_w = L.train_linear(x, w, bias, seed, 3, recipe, None)
    backward = (torch.randn(5, N), kept_x, kept_w, seed, 3, recipe, K, torch.float32)
    kept = [*L.train_quantize(x, 4, True), *L.train_quantize(w, 4, True)]
    return {
        "train_quantize": (x, 4, True),
        "train_multiply": (*kept, bias, 4, 128, torch.bfloat16),
        "train_fold": (torch.randn(5, N), *kept[2:], seed, 3, False, 4, True, K, torch.float32),
        "stepped_linear": (x, w.to(x.dtype), None, torch.ones(1), torch.ones(1)),
        "train_linear": (x, w, bias, seed, 3, recipe, torch.float32),
        "train_grad_input": backward,
        "train_grad_weight": backward,
        "train_grad_stepped": (*_kept_with_steps(x, w, seed), True),
    }


def _kept_with_steps(x, w, seed):
    recipe, step = "int4-training-paper", torch.tensor([0.3])
    kept = L.train_linear(x, w, None, seed, 3, recipe, None, step, step / 4)[1:]
    return torch.randn(5, N), *kept, seed, 3, recipe, K, torch.float32


def _in_fixed_point(x, w):
    """One call of each product with codes in planes of bits."""
    calls = {}
    for one in (operand(word, 32) for word in WORDS):
        product = PRODUCTS.get((None, one.kind, Nothing))
        if product is not None and product.fixed_error:
            calls[product.op] = (x, one.pack(one.quantize(w)), None, N, *one.arguments, None)
    nested, ternary = operand("int4-nested", 32), operand("ternary", 32)
    calls["linear_s8ternary"] = (x, ternary.pack(ternary.quantize(w)), None, N, None)
    calls["linear_s8u4_nested"] = (x, nested.pack(nested.quantize(w)), None, N, 32, None)
    calls["linear_s8u4_nested_rotated"] = (x, nested.pack(nested.quantize(L.rotate(w))), None, N, 32, torch.float32)
    return calls


def _chain(x, packed, bias):
    """Two steps: a product, and relu of some of its columns."""
    steps = [
        Step(Kind.PRODUCT, 0, 0, K, weight=0, bias=1, dtype=1, columns=N),
        Step(Kind.APPLY, 1, 4, 20, function=FUNCTION["relu"], dtype=0, columns=20, kept=1),
    ]
    return ([x], [packed, bias], *encode(steps))


def _formats(x, w):
    """One call of every op of every format: activations where it has them, else weights."""
    calls = {}
    for one in (operand(word, 32) for word in WORDS):
        parts = one.quantize(w)
        calls[op_name("quantize", *one.kind)] = (x if one.format.activations else w, *one.arguments)
        calls[op_name("dequantize", *one.kind)] = (*parts, *one.arguments, torch.bfloat16)
        if one.format.panels is not None:
            calls[op_name("pack", *one.kind)] = (*parts, *one.arguments)
    return calls
