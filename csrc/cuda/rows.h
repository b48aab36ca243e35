// What a block does with one row: maxima over all of its threads, rotation, codes.
#pragma once
#include "cuda/floats.h"

namespace lowbit::cuda {

constexpr int kRotationThreads = 8;  // adjacent threads, kChunk elements each, hold a block of the rotation

// The largest of each of `count` values over the block, for all of its threads. Needs 32 * count words of shared memory.
template <int count>
LOWBIT_DEVICE void block_maxima(uint32_t value[count], uint32_t* shared) {
  const int warps = block_threads() / 32, warp = thread_index() / 32, lane = thread_index() % 32;
#pragma unroll
  for (int i = 0; i < count; ++i) {
    for (int mask = 16; mask; mask /= 2) {
      const uint32_t other = shuffle_xor(value[i], mask);
      value[i] = other > value[i] ? other : value[i];
    }
  }
  barrier();  // `shared` may still be read for the last call
  if (lane == 0) {
    for (int i = 0; i < count; ++i) shared[i * 32 + warp] = value[i];
  }
  barrier();
#pragma unroll
  for (int i = 0; i < count; ++i) {
    for (int w = 0; w < warps; ++w) value[i] = shared[i * 32 + w] > value[i] ? shared[i * 32 + w] : value[i];
  }
}

// The sum of `own` over the threads before this one, and over all of them. Needs 32 words of shared memory.
LOWBIT_DEVICE uint32_t block_prefix(uint32_t own, uint32_t* all, uint32_t* shared) {
  const int warps = block_threads() / 32, warp = thread_index() / 32, lane = thread_index() % 32;
  uint32_t before = 0, sum = own;  // sum: of the threads of the warp whose lanes agree above `mask`
#pragma unroll
  for (int mask = 1; mask < 32; mask *= 2) {
    const uint32_t other = shuffle_xor(sum, mask);
    if (lane & mask) before += other;
    sum += other;
  }
  barrier();
  if (lane == 0) shared[warp] = sum;
  barrier();
  *all = 0;
  for (int w = 0; w < warps; ++w) {
    if (w < warp) before += shared[w];
    *all += shared[w];
  }
  return before;
}

// The same as block_maxima() for sums.
template <int count>
LOWBIT_DEVICE void block_sums(uint32_t value[count], uint32_t* shared) {
  const int warps = block_threads() / 32, warp = thread_index() / 32, lane = thread_index() % 32;
#pragma unroll
  for (int i = 0; i < count; ++i) {
    for (int mask = 16; mask; mask /= 2) value[i] += shuffle_xor(value[i], mask);
  }
  barrier();
  if (lane == 0) {
    for (int i = 0; i < count; ++i) shared[i * 32 + warp] = value[i];
  }
  barrier();
#pragma unroll
  for (int i = 0; i < count; ++i) {
    value[i] = 0;
    for (int w = 0; w < warps; ++w) value[i] += shared[i * 32 + w];
  }
}

// Bits of |x|: compared as integers, NaN is the largest.
LOWBIT_DEVICE uint32_t magnitude(float x) { return float_bits(x) & 0x7fffffffu; }

LOWBIT_DEVICE uint32_t chunk_maximum(const float v[kChunk]) {
  uint32_t a = 0;
#pragma unroll
  for (int i = 0; i < kChunk; ++i) a = magnitude(v[i]) > a ? magnitude(v[i]) : a;
  return a;
}

// The Hadamard transform of 64 elements in 8 adjacent threads, in the order of docs/arithmetic.md; the whole warp takes part.
LOWBIT_DEVICE void rotate_chunk(float v[kChunk]) {
#pragma unroll
  for (int i = 0; i < kChunk; ++i) v[i] *= 0.125f;
#pragma unroll
  for (int half = 1; half < kChunk; half *= 2) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if (i & half) continue;
      const float a = v[i], b = v[i + half];
      v[i] = a + b;
      v[i + half] = a - b;
    }
  }
#pragma unroll
  for (int mask = 1; mask < kRotationThreads; mask *= 2) {
    const bool upper = thread_index() & mask;
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const float other = shuffle_xor(v[i], mask);
      v[i] = upper ? other - v[i] : v[i] + other;
    }
  }
}

// How a row with maximum bits `a` is encoded: codes are rne(v * inverse).
struct Encoding {
  float inverse, scale;
  bool codes;  // false: all zero
};
LOWBIT_DEVICE Encoding encoding_of(uint32_t a, float largest) {
  const float maximum = bits_float(a);
  if (a >= kInfBits) return {0.0f, bits_float(0x7fc00000u), false};
  if (maximum < kEmpty) return {0.0f, 0.0f, false};
  return {largest / maximum, maximum / largest, true};
}

LOWBIT_DEVICE int32_t code_of(float v, const Encoding& encoding, int32_t largest) {
  if (!encoding.codes) return 0;
  const int32_t q = round_even(v * encoding.inverse);
  return q > largest ? largest : q < -largest ? -largest : q;
}

// Eight codes from column k on, of which those before `end` exist.
LOWBIT_DEVICE void store_codes(int8_t* row, int64_t k, int64_t end, const int32_t q[kChunk]) {
  if (k + kChunk <= end && (uintptr_t)(row + k) % 8 == 0) {
    HalfWords words;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      words.w[i] = (uint32_t)(q[4 * i] & 255) | (uint32_t)(q[4 * i + 1] & 255) << 8 | (uint32_t)(q[4 * i + 2] & 255) << 16 |
                   (uint32_t)q[4 * i + 3] << 24;
    }
    return store_wide(row + k, words);
  }
  for (int i = 0; i < kChunk; ++i) {
    if (k + i < end) row[k + i] = (int8_t)q[i];
  }
}

}  // namespace lowbit::cuda
