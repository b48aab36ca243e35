// Packed weights as floats: 4 codes of one output to numbers, and pairs of numbers to the words that tensor cores take.
#pragma once
#include "cuda/device.h"
#include "formats/formats.h"

namespace lowbit::cuda {

// Codes 4 * quad ... of a word, of any format; quick ways follow.
template <class F>
LOWBIT_DEVICE void widen(F, uint32_t word, int quad, float v[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = (float)F::code(word, 4 * quad + i);
}

// Codes are stored as they are, so adding 128 (flipping the sign bit) makes them positive.
LOWBIT_DEVICE void widen(S8, uint32_t word, int, float v[4]) {
  const uint32_t positive = word ^ 0x80808080u;
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = biased_byte(positive, i) - (0x1p23f + 128.0f);
}

// Nibbles are codes plus 8, the high ones those of the second quad.
LOWBIT_DEVICE void widen(S4, uint32_t word, int quad, float v[4]) {
  const uint32_t nibbles = word >> 4 * quad & 0x0f0f0f0fu;
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = biased_byte(nibbles, i) - (0x1p23f + 8.0f);
}

// Codes have at most 8 bits, so a bfloat16 holds them, and the lower half of the float32 is zero.
struct Bfloat {
  LOWBIT_DEVICE static uint32_t pair(float low, float high) { return float_bits(low) >> 16 | (float_bits(high) & 0xffff0000u); }
  LOWBIT_DEVICE static void mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) { mma_bf16(c, a, b0, b1); }
};
struct Half {
  LOWBIT_DEVICE static uint32_t pair(float low, float high) { return floats_to_f16(low, high); }
  LOWBIT_DEVICE static void mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) { mma_f16(c, a, b0, b1); }
};

// The leading 8 bits of a float32 as a bfloat16; what is left of it takes its place. Three of them are the whole number. NaN and
// infinities are their own leading part, and leave nothing.
LOWBIT_DEVICE uint32_t take_leading(float* x) {
  const uint32_t bits = float_bits(*x);
  if ((bits & 0x7f800000u) == 0x7f800000u) {
    *x = 0;
    return bits >> 16 | ((bits & 0x7fffffu) ? 0x40u : 0u);
  }
  *x -= bits_float(bits & 0xffff0000u);
  return bits >> 16;
}

}  // namespace lowbit::cuda
