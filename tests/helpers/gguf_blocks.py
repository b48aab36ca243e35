"""Blocks of GGUF files that the demo's file has none of: Q5_0, Q4_K and Q6_K, unpacked to float32 (ggml's dequantize_row functions)."""

import numpy as np
import numpy.typing as npt

from lowbit_compiler.demo.gguf_file import Array, Kind

Bytes = npt.NDArray[np.uint8]


def _halves(raw: Bytes) -> Array:
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def q5_0(raw: Bytes) -> Array:
    """32 values: scale, a fifth bit of each, and their lower four: low halves of bytes first."""
    fifth = np.unpackbits(raw[:, 2:6], axis=1, bitorder="little")
    nibbles = np.concatenate([raw[:, 6:] & 15, raw[:, 6:] >> 4], axis=1)
    return ((nibbles | fifth << 4).astype(np.float32) - 16) * _halves(raw[:, :2])


def q4_k(raw: Bytes) -> Array:
    """256 values in 8 groups: scale of scales and of minima, both in 6 bits, packed, and 4 bits of each; two groups share 32 bytes."""
    packed, nibbles = raw[:, 4:16], raw[:, 16:].reshape(-1, 4, 1, 32)
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=1) * _halves(raw[:, :2])
    minima = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=1) * _halves(raw[:, 2:4])
    values = np.concatenate([nibbles & 15, nibbles >> 4], axis=2).reshape(-1, 8, 32)
    return (values * scales[:, :, None] - minima[:, :, None]).reshape(len(raw), 256)


def q6_k(raw: Bytes) -> Array:
    """256 values in 16 groups: 4 lower bits, 2 upper ones, a scale of 8 bits for each group, and one of all."""
    lower, upper = raw[:, :128].reshape(-1, 2, 1, 64), raw[:, 128:192].reshape(-1, 2, 1, 32)
    low = np.concatenate([lower & 15, lower >> 4], axis=2).reshape(-1, 2, 4, 32)
    high = np.concatenate([upper >> shift & 3 for shift in (0, 2, 4, 6)], axis=2)
    values = (low | high << 4).astype(np.float32).reshape(-1, 16, 16) - 32
    scales = raw[:, 192:208].view(np.int8) * _halves(raw[:, 208:])
    return (values * scales[:, :, None]).reshape(len(raw), 256)


KINDS: dict[int, Kind] = {6: (32, 22, q5_0), 12: (256, 144, q4_k), 14: (256, 210, q6_k)}
"""By the number of the type in the file."""
