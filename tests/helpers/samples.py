"""One call of every op, with arguments that it takes."""

import torch

from helpers import operands

L = torch.ops.lowbit
K, N = 100, 33


def samples(dtype=torch.bfloat16):
    """One call of every op."""
    x, w = operands.rows(5, K, dtype), operands.weight(N, K)
    q8, q4 = L.quantize_s8(w), L.quantize_s4(w, 32)
    packed, packed4, bias = L.pack_s8(*q8), L.pack_s4(*q4, 32), torch.randn(N)
    q = x.reshape(1, 5, 4, K // 4).transpose(1, 2)
    turned, u8 = q8[0].t().contiguous(), L.quantize_u8(x)
    return {
        "quantize_s8": (x,),
        "dequantize_s8": (*q8, torch.bfloat16),
        "quantize_s4": (w, 32),
        "dequantize_s4": (*q4, 32, torch.float16),
        "rotate": (x,),
        "split_columns": (x, 6.0),
        "split_rows": (x,),
        "pack_s8": q8,
        "pack_s4": (*q4, 32),
        "linear_s8s8": (x, packed, bias, N, None),
        "linear_s8s8_rotated": (x, L.pack_s8(*L.quantize_s8(L.rotate(w))), bias, N, torch.float32),
        "linear_s8s8_columns": (x, packed, None, N, 6.0, None),
        "linear_s8s8_rows": (x, packed, None, N, None),
        "linear_fs8": (x, packed, bias, N, None),
        "linear_fs4": (x, packed4, None, N, 32, None),
        "quantize_u8": (x,),
        "product_u8s8": (u8[0], turned),
        "product_fs8": (x.float(), turned),
        "codes_as_float": q8[:1],
        "hit_columns": (x, 6.0),
        "product_columns": (x.float(), L.hit_columns(x, 6.0), turned),
        "dequantize_columns": (turned, q8[1].reshape(-1)),
        "dequantize_groups": (q4[0].t().contiguous(), q4[1].t().contiguous(), 32),
        "sdpa": (q, q[:, :2], q[:, 2:], torch.randn(1, 1, 5, 5), True, 0.25),
        "softmax": (x, 1, 0.125, torch.randn(1, K), False, torch.float32),
    }
