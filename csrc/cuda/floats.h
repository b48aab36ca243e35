// Numbers of the three float formats, one by one and 8 at a time.
#pragma once
#include "linear/linear.h"
#include "cuda/device.h"

namespace lowbit::cuda {

LOWBIT_DEVICE float load_number(const void* row, Dtype dtype, int64_t i) {
  if (dtype == kF32) return ((const float*)row)[i];
  const uint16_t h = ((const uint16_t*)row)[i];
  return dtype == kBF16 ? bf16_to_float(h) : f16_to_float(h);
}

LOWBIT_DEVICE void store_number(void* row, Dtype dtype, int64_t i, float x) {
  if (dtype == kF32) ((float*)row)[i] = x;
  else ((uint16_t*)row)[i] = dtype == kBF16 ? float_to_bf16(x) : float_to_f16(x);
}

// Whether chunks of 16 bytes of every row are aligned and whole.
inline bool is_regular(const Matrix& x) {
  const int64_t size = element_size(x.dtype);
  return (uintptr_t)x.data % 16 == 0 && x.stride * size % 16 == 0 && x.columns * size % 16 == 0;
}

LOWBIT_DEVICE const char* row_at(const Matrix& x, int64_t row) {
  return (const char*)x.data + row * x.stride * (x.dtype == kF32 ? 4 : 2);
}

constexpr int kChunk = 8;  // elements a thread takes together

// Elements k .. k + 7 of a row of `columns`, zero from there on. `regular`: see is_regular().
LOWBIT_DEVICE void load_chunk(const char* row, Dtype dtype, int64_t k, int64_t columns, bool regular, float v[kChunk]) {
  if (!regular || k + kChunk > columns) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) v[i] = k + i < columns ? load_number(row, dtype, k + i) : 0.0f;
  } else if (dtype == kF32) {
    const Words low = load_wide<Words>(row + k * 4), high = load_wide<Words>(row + k * 4 + 16);
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = bits_float(low.w[i]), v[i + 4] = bits_float(high.w[i]);
  } else {
    const Words both = load_wide<Words>(row + k * 2);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint16_t even = (uint16_t)both.w[i], odd = (uint16_t)(both.w[i] >> 16);
      v[2 * i] = dtype == kBF16 ? bf16_to_float(even) : f16_to_float(even);
      v[2 * i + 1] = dtype == kBF16 ? bf16_to_float(odd) : f16_to_float(odd);
    }
  }
}

// Four adjacent numbers from column `i` on, of which those before `end` exist; wide where the row is aligned for it.
LOWBIT_DEVICE void store_four(void* row, Dtype dtype, int64_t i, int64_t end, bool aligned, const float y[4]) {
  if (!aligned || i + 4 > end) {
    for (int j = 0; j < 4; ++j) {
      if (i + j < end) store_number(row, dtype, i + j, y[j]);
    }
  } else if (dtype == kF32) {
    store_wide((char*)row + i * 4, Words{{float_bits(y[0]), float_bits(y[1]), float_bits(y[2]), float_bits(y[3])}});
  } else {
    uint32_t h[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) h[j] = dtype == kBF16 ? float_to_bf16(y[j]) : float_to_f16(y[j]);
    store_wide((char*)row + i * 2, HalfWords{{h[0] | h[1] << 16, h[2] | h[3] << 16}});
  }
}

}  // namespace lowbit::cuda
