"""Kernels read no byte after their operands: these lie at the end of a page that has an inaccessible page behind it."""

import subprocess
import sys

import pytest

from lowbit_compiler.runtime import library

SCRIPT = """
import ctypes, mmap, sys, torch
from helpers import operands
from lowbit_compiler.runtime import kernels, library
libc = ctypes.CDLL(None, use_errno=True)
L, page, kept = torch.ops.lowbit, mmap.PAGESIZE, []

def at_end(t):
    size = t.numel() * t.element_size()
    pages = -(-size // page)
    memory = mmap.mmap(-1, (pages + 1) * page)
    kept.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert libc.mprotect(ctypes.c_void_p(start + pages * page), page, 0) == 0
    copy = torch.frombuffer(memory, dtype=t.dtype, count=t.numel(), offset=pages * page - size).view(t.shape)
    return copy.copy_(t)

for isa in library.status().detected:
    with kernels.using(isa=isa):
        for m, k, n in [(1, 1, 1), (1, 100, 33), (7, 64, 16), (17, 127, 47), (33, 192, 32), (48, 64, 48)]:
            w = operands.weight(n, k)
            s8, s4 = at_end(L.pack_s8(*L.quantize_s8(w))), at_end(L.pack_s4(*L.quantize_s4(w, 64), 64))
            u4 = at_end(L.pack_u4(*L.quantize_u4(w, 64), 64))
            nested = at_end(L.pack_u4_nested(*L.quantize_u4_nested(w, 64), 64))
            d8, ternary = at_end(L.pack_d8(*L.quantize_s8(w))), at_end(L.pack_ternary(*L.quantize_ternary(w)))
            nf4, iq4 = (at_end(pack(*quantize(w, 64), 64)) for pack, quantize in ((L.pack_nf4, L.quantize_nf4), (L.pack_iq4, L.quantize_iq4)))
            z4, z6 = (at_end(pack(*quantize(w, g), g)) for pack, quantize, g in ((L.pack_z4, L.quantize_z4, 64), (L.pack_z6, L.quantize_z6, 16)))
            for dtype in operands.DTYPES:
                x, bias = at_end(operands.rows(m, k, dtype)), at_end(torch.randn(n).to(dtype))
                L.linear_s8s8(x, s8, bias, n, None), L.linear_s8s8_rotated(x, s8, bias, n, None), L.linear_s8s8_rows(x, s8, bias, n, None)
                L.linear_s8s8_columns(x, s8, bias, n, 6.0, None), L.linear_fs8(x, s8, bias, n, None), L.linear_fs4(x, s4, bias, n, 64, None)
                L.linear_fu4(x, u4, bias, n, 64, None), L.linear_fu4_nested(x, nested, bias, n, 64, None)
                L.linear_s8u4_nested(x, nested, bias, n, 64, None), L.quantize_u4(x, 32)
                L.linear_s8d8(x, d8, bias, n, None), L.linear_s8ternary(x, ternary, bias, n, None), L.linear_fternary(x, ternary, bias, n, None)
                L.linear_fnf4(x, nf4, bias, n, 64, None), L.linear_fiq4(x, iq4, bias, n, 64, None)
                L.linear_fz4(x, z4, bias, n, 64, None), L.linear_fz6(x, z6, bias, n, 16, None)
                L.quantize_s8(x), L.quantize_s4(x, 32), L.rotate(x)
                for mask in (None, at_end(torch.randn(k).to(dtype)), at_end(torch.arange(m * k).view(m, k) % 3 > 0)):
                    L.softmax(x, -1, 0.5, mask, False, None), L.softmax(x, 0, 1.0, mask, True, torch.float32)
for kernel in kernels.kernels():
    if kernel.family not in ("attention", "attention_codes") or kernel.isa not in library.status().detected:
        continue
    for h, g, rows, keys, e, f in [(2, 1, 3, 37, 33, 20), (3, 1, 50, 131, 40, 72), (1, 1, 1, 1, 1, 1)]:
        for dtype in [torch.bfloat16] if kernel.bf16_only else operands.DTYPES:
            q, k, v = (at_end(torch.randn(1, *size).to(dtype)) for size in [(h, rows, e), (g, keys, e), (g, keys, f)])
            call, held = L.sdpa, (q, k, v)
            if kernel.family == "attention_codes":
                call, held = L.sdpa_codes, (q, *map(at_end, (*L.quantize_s8(k), *L.quantize_s8(v))))
            for mask in (None, at_end(torch.randn(rows, keys).to(dtype)), at_end(torch.rand(h, 1, keys) > 0.3), at_end(torch.rand(rows, 1) > 0.3)):
                with kernels.using(kernel=kernel.name):
                    call(*held, mask, False, 0.3), call(*held, mask, True, 0.3)
print("read nothing else")
"""


@pytest.mark.skipif(library.handle() is None or sys.platform != "linux", reason="no native library, or no mprotect")
def test_no_read_past_the_end():
    path = [p for p in sys.path if p.endswith("tests")]
    program = f"import sys; sys.path += {path!r}\n" + SCRIPT
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr[-2000:]}"
    assert "read nothing else" in done.stdout
