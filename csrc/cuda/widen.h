// What tensor cores take of float products: pairs of 16-bit numbers, of codes and of rows.
#pragma once
#include "cuda/floats.h"
#include "cuda/quads.h"

namespace lowbit::cuda {

// A byte below 128 or 1024 in the low bits of 128 or 1024 is their sum; what was added is taken off again, all of it exactly.
struct Bfloat {
  static constexpr uint32_t kOnes = 0x3f803f80u;
  LOWBIT_DEVICE static void mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) { mma_bf16(c, a, b0, b1); }
  // The four codes of a word of bytes: see Quads.
  template <class Q>
  LOWBIT_DEVICE static void pairs(uint32_t bytes, uint32_t b[2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (Q::kMost < 128) {
        b[i] = subtract_bf16(permute_bytes(bytes, 0x43434343u, i ? 0x4342 : 0x4140), (0x4300u + Q::kOffset) * 0x10001u);
        continue;
      }
      // Codes have at most 8 bits, so a bfloat16 holds them, and the lower half of the float32 is zero.
      const float low = biased_byte(bytes, 2 * i) - (0x1p23f + Q::kOffset), high = biased_byte(bytes, 2 * i + 1) - (0x1p23f + Q::kOffset);
      b[i] = permute_bytes(float_bits(low), float_bits(high), 0x7632);
    }
  }
};
struct Half {
  static constexpr uint32_t kOnes = 0x3c003c00u;
  LOWBIT_DEVICE static void mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) { mma_f16(c, a, b0, b1); }
  template <class Q>
  LOWBIT_DEVICE static void pairs(uint32_t bytes, uint32_t b[2]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) b[i] = subtract_f16(permute_bytes(bytes, 0x64646464u, i ? 0x4342 : 0x4140), (0x6400u + Q::kOffset) * 0x10001u);
  }
};

// The numbers that rows of a dtype are multiplied as; float32 is three bfloat16 numbers each.
template <Dtype dtype>
struct Numbers : Bfloat {};
template <>
struct Numbers<kF16> : Half {};
template <Dtype dtype>
constexpr int kParts = dtype == kF32 ? 3 : 1;
template <Dtype dtype>
constexpr int kFourWords = dtype == kF32 ? 4 : 2;  // of four numbers in memory

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

// Four numbers as they lie in memory, as two pairs for each part.
template <Dtype dtype>
LOWBIT_DEVICE void split_four(const uint32_t* four, uint32_t (*pair)[2]) {
  if (dtype != kF32) {
    pair[0][0] = four[0], pair[0][1] = four[1];
    return;
  }
  float x[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) x[i] = bits_float(four[i % kFourWords<dtype>]);
#pragma unroll
  for (int part = 0; part < kParts<dtype>; ++part) {
    const uint32_t first = take_leading(x), second = take_leading(x + 1), third = take_leading(x + 2), fourth = take_leading(x + 3);
    pair[part][0] = first | second << 16;
    pair[part][1] = third | fourth << 16;
  }
}

}  // namespace lowbit::cuda
