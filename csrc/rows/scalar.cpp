#include "common/convert.h"
#include "common/types.h"
#include "vec/scalar.h"
#include "rows/prologue.h"

namespace lowbit {
namespace {

inline uint32_t magnitude(float x) { return float_bits(x) & 0x7fffffffu; }

uint32_t maximum(const float* v, int64_t kp) {
  uint32_t a = 0;
  for (int64_t i = 0; i < kp; ++i) a = magnitude(v[i]) > a ? magnitude(v[i]) : a;
  return a;
}

uint32_t load(const void* row, Dtype dtype, int64_t k, int64_t kp, float* v) {
  for (int64_t i = 0; i < k; ++i) v[i] = load_float(row, dtype, i);
  for (int64_t i = k; i < kp; ++i) v[i] = 0;
  return maximum(v, kp);
}

uint32_t rotate(float* v, int64_t kp) {
  for (int64_t i = 0; i < kp; ++i) v[i] *= 0.125f;
  for (int64_t half = 1; half < kBlock; half *= 2) {
    for (int64_t i = 0; i < kp; i += 2 * half) {
      for (int64_t j = i; j < i + half; ++j) {
        const float a = v[j], b = v[j + half];
        v[j] = a + b;
        v[j + half] = a - b;
      }
    }
  }
  return maximum(v, kp);
}

// Adding 1.5 * 2^23 rounds to an integer, to nearest even, and leaves it in the low bits. |v * inverse| < 127.5, so neither
// this nor the saturation of the vector versions ever cuts.
void codes(const float* v, int64_t kp, float inverse, uint8_t flip, int8_t* q, int64_t step) {
  for (int64_t b = 0; b < kp / 64; ++b) {
    for (int64_t i = 0; i < 64; ++i) q[b * step + i] = (int8_t)(float_bits(v[b * 64 + i] * inverse + 0x1.8p23f) ^ flip);
  }
}

int64_t above(const float* v, int64_t kp, float cut, int64_t capacity, int32_t* index) {
  int64_t found = 0;
  for (int64_t i = 0; i < kp; ++i) {
    if (__builtin_fabsf(v[i]) > cut && found++ < capacity) index[found - 1] = (int32_t)i;
    if (found > capacity) break;
  }
  return found;
}

void reach(const float* v, int64_t kp, float threshold, uint8_t* hit) {
  for (int64_t i = 0; i < kp; ++i) hit[i] |= __builtin_fabsf(v[i]) >= threshold;
}

}  // namespace

extern const RowKernels rows_scalar;
const RowKernels rows_scalar = {load, maximum, rotate, codes, above, reach, apply_prologue};

}  // namespace lowbit
