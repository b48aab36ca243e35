"""Codes of few bits side by side in bytes, as checkpoints hold them: 8 codes in as many bytes as a code has bits, the first in the lowest bits.

A code below zero is stored plus half the range. Of 4 bits the bytes are those of compressed-tensors' ``pack-quantized``.
"""

import torch
from torch import Tensor

EACH = 8
"""Codes that end where a byte does, whatever their bits."""


def row_bytes(k: int, bits: int) -> int:
    """Return the bytes of a row of ``k`` codes."""
    return -(-k // EACH) * bits


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Return int8 or uint8 ``codes`` [N, K] as uint8 [N, bytes]."""
    n, k = codes.shape
    half = 1 << (bits - 1) if codes.dtype.is_signed else 0
    each = torch.nn.functional.pad((codes + half).view(torch.uint8), (0, -k % EACH)).view(n, -1, EACH)
    packed = torch.zeros((*each.shape[:2], bits), dtype=torch.uint8, device=codes.device)
    for index in range(EACH):
        first, shift = divmod(bits * index, 8)
        packed[..., first] |= each[..., index] << shift
        if shift + bits > 8:
            packed[..., first + 1] |= each[..., index] >> (8 - shift)
    return packed.view(n, -1)


def unpack_codes(packed: Tensor, bits: int, signed: bool, k: int) -> Tensor:
    """Invert :func:`pack_codes`: int8 (``signed``) or uint8 [N, k]."""
    lines = packed.view(packed.shape[0], -1, bits)
    made = torch.empty((*lines.shape[:2], EACH), dtype=torch.uint8, device=packed.device)
    for index in range(EACH):
        first, shift = divmod(bits * index, 8)
        code = lines[..., first] >> shift
        if shift + bits > 8:
            code = code | lines[..., first + 1] << (8 - shift)
        made[..., index] = code & ((1 << bits) - 1)
    codes = made.view(packed.shape[0], -1)[:, :k]
    return codes.to(torch.int8) - (1 << (bits - 1)) if signed else codes.contiguous()
