// What happens to a row before it is quantized: f(v) * times + plus in float32. Include one of the vectors of csrc/vec first.
#pragma once
#include <math.h>

#include "common/types.h"
#include "vec/exp.h"

namespace lowbit {
namespace {

inline Vec power_of_e(Vec x) { return exp2_of<5>(x * splat(0x1.715476p+0f)); }

// x / (1 + e^-y); of -infinity NaN, as in torch. The bound is where the power overflows anyway.
inline Vec logistic(Vec x, Vec y) { return x / (splat(1.0f) + power_of_e(splat(0.0f) - larger(splat(-100.0f), y))); }

// x * Phi(x), erf after Abramowitz and Stegun 7.1.26: off by less than 2^-22 |x|.
inline Vec gelu(Vec x) {
  const Vec z = larger(x, splat(0.0f) - x) * splat(0x1.6a09e6p-1f);
  const Vec t = splat(1.0f) / fma(splat(0x1.4f740ap-2f), z, splat(1.0f));
  Vec p = fma(splat(0x1.0fb844p+0f), t, splat(-0x1.7401c6p+0f));
  p = fma(p, t, splat(0x1.6be1c6p+0f));
  p = fma(p, t, splat(-0x1.23531cp-2f));
  p = fma(p, t, splat(0x1.04f20cp-2f));
  const Vec half = splat(0.5f) * p * t * power_of_e(splat(0.0f) - z * z);  // 1 - Phi(|x|)
  return x * select(above(x, splat(0.0f)), splat(1.0f) - half, half);
}

inline Vec gelu_tanh(Vec x) { return logistic(x, x * fma(x * x, splat(0x1.2444f2p-4f), splat(0x1.988454p+0f))); }

template <Function function>
inline Vec value_of(Vec x) {
  return function == kSilu ? logistic(x, x) : function == kGelu ? gelu(x) : function == kGeluTanh ? gelu_tanh(x)
       : function == kRelu ? larger(splat(0.0f), x) : x;
}

inline float sum_of_squares(const float* v, int64_t k, float mean) {
  Vec a = splat(0.0f), b = a;
  const Vec m = splat(mean);
  int64_t i = 0;
  for (; i + 2 * Vec::kWidth <= k; i += 2 * Vec::kWidth) {
    const Vec x = load(v + i) - m, y = load(v + i + Vec::kWidth) - m;
    a = fma(x, x, a);
    b = fma(y, y, b);
  }
  float rest = 0;
  for (; i < k; ++i) rest += (v[i] - mean) * (v[i] - mean);
  return sum_of(a + b) + rest;
}

inline float sum(const float* v, int64_t k) {
  Vec a = splat(0.0f), b = a;
  int64_t i = 0;
  for (; i + 2 * Vec::kWidth <= k; i += 2 * Vec::kWidth) {
    a = a + load(v + i);
    b = b + load(v + i + Vec::kWidth);
  }
  float rest = 0;
  for (; i < k; ++i) rest += v[i];
  return sum_of(a + b) + rest;
}

// What a normalization takes off a row's elements, and what it multiplies them by.
struct Moments {
  float mean, scale;
};

inline Moments moments(const float* v, int64_t k, bool centred, float eps) {
  const float mean = centred ? sum(v, k) / (float)k : 0;
  return {mean, 1 / sqrtf(sum_of_squares(v, k, mean) / (float)k + eps)};
}

template <Dtype dtype>
inline Vec some_of(const void* row, int64_t i, int64_t count) {
  return count >= Vec::kWidth ? load_as<dtype>(row, i) : load_as<dtype>(row, i, count, 0);
}

inline Vec some(const Row& row, int64_t i, int64_t count) {
  return row.dtype == kF32 ? some_of<kF32>(row.data, i, count)
       : row.dtype == kBF16 ? some_of<kBF16>(row.data, i, count) : some_of<kF16>(row.data, i, count);
}

template <Function function>
void prologue_as(const Prologue& prologue, int64_t k, int64_t kp, float* v) {
  constexpr bool norm = function == kRmsNorm || function == kLayerNorm;
  const Moments row = norm ? moments(v, k, function == kLayerNorm, prologue.eps) : Moments{0, 1};
  const Vec mean = splat(row.mean), scale = splat(row.scale);
  for (int64_t i = 0; i < k; i += Vec::kWidth) {  // v is padded to kp
    Vec x = load(v + i);
    x = norm ? (x - mean) * scale : value_of<function>(x);
    if (prologue.times.data) x = x * some(prologue.times, i, k - i);
    if (prologue.plus.data) x = x + some(prologue.plus, i, k - i);
    store(v + i, x);
  }
  for (int64_t i = k; i < kp; ++i) v[i] = 0;
}

void apply_prologue(const Prologue& prologue, int64_t k, int64_t kp, float* v) {
  switch (prologue.function) {
    case kIdentity: return prologue_as<kIdentity>(prologue, k, kp, v);
    case kSilu: return prologue_as<kSilu>(prologue, k, kp, v);
    case kGelu: return prologue_as<kGelu>(prologue, k, kp, v);
    case kGeluTanh: return prologue_as<kGeluTanh>(prologue, k, kp, v);
    case kRelu: return prologue_as<kRelu>(prologue, k, kp, v);
    case kRmsNorm: return prologue_as<kRmsNorm>(prologue, k, kp, v);
    case kLayerNorm: return prologue_as<kLayerNorm>(prologue, k, kp, v);
  }
}

}  // namespace
}  // namespace lowbit
