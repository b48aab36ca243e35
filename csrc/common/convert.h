// Scalar conversions between float32 and the 16-bit formats; all round to nearest even.
#pragma once
#include <string.h>

#include "common/types.h"

namespace lowbit {

static inline uint32_t float_bits(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
static inline float bits_float(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }

static inline float bf16_to_float(uint16_t h) { return bits_float((uint32_t)h << 16); }

static inline uint16_t float_to_bf16(float x) {
  const uint32_t u = float_bits(x);
  if ((u & 0x7fffffffu) > kInfBits) return (uint16_t)((u >> 16) | 0x40);
  return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

static inline float f16_to_float(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000) << 16, magnitude = h & 0x7fff;
  if (magnitude >= 0x7c00) return bits_float(sign | kInfBits | (magnitude & 0x3ff) << 13);
  // The exponent field of a half, read as that of a float, is 112 too small; the product also normalises subnormals.
  return bits_float(sign | float_bits(bits_float(magnitude << 13) * 0x1p112f));
}

static inline uint16_t float_to_f16(float x) {
  const uint32_t u = float_bits(x), sign = (u >> 16) & 0x8000, a = u & 0x7fffffffu;
  if (a > kInfBits) return (uint16_t)(sign | 0x7e00);
  if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00);  // 65520 and above round to infinity
  if (a < 0x38800000u) {  // subnormal: adding 0.5 leaves the rounded value in the low mantissa bits
    return (uint16_t)(sign | (float_bits(bits_float(a) + 0.5f) - float_bits(0.5f)));
  }
  return (uint16_t)(sign | ((a - 0x38000000u + 0xfff + ((a >> 13) & 1)) >> 13));
}

static inline float load_float(const void* row, Dtype dtype, int64_t i) {
  if (dtype == kF32) return ((const float*)row)[i];
  const uint16_t h = ((const uint16_t*)row)[i];
  return dtype == kBF16 ? bf16_to_float(h) : f16_to_float(h);
}

static inline void store_float(void* row, Dtype dtype, int64_t i, float x) {
  if (dtype == kF32) ((float*)row)[i] = x;
  else ((uint16_t*)row)[i] = dtype == kBF16 ? float_to_bf16(x) : float_to_f16(x);
}

}  // namespace lowbit
