// e^s as a pair (m, n) of value m * 2^n, and sums of them: no maximum is subtracted from s, so no rounding of it is in the result.
// The polynomial is that of csrc/vec/exp.h.
#pragma once
#include <math.h>

#include "cuda/floats.h"

namespace lowbit::cuda {

constexpr float kLargeScore = 131072.0f;  // 2^17: rows whose maximum is larger, either way, are shifted in double
constexpr float kLowest = -262144.0f;     // scores below count as this one: nothing, next to any score of a row that is not shifted

struct Power {
  float m, n;
};

LOWBIT_DEVICE Power power_of(float s) {
  const float x = s > kLowest ? s : kLowest, n = rintf(x * 0x1.715476p+0f);
  const float t = fmaf(n, 0x1.05C61p-29f, fmaf(n, -0x1.62E43p-1f, x));
  float m = fmaf(0x1.0F9F9Cp-7f, t, 0x1.573A1Ap-5f);
  m = fmaf(m, t, 0x1.555A80p-3f);
  m = fmaf(m, t, 0x1.FFFDC6p-2f);
  m = fmaf(m, t, 0x1.FFFFF6p-1f);
  return {fmaf(m, t, 1.0f), n};
}

// m * 2^n for n <= 0; zero below 2^-126.
LOWBIT_DEVICE float scaled_down(float m, float n) { return n < -126.0f ? 0.0f : m * bits_float((uint32_t)((int32_t)n + 127) << 23); }
LOWBIT_DEVICE double scaled_down(double m, float n) { return n < -1000.0f ? 0.0 : m * bits_double((uint64_t)((int64_t)n + 1023) << 52); }

// A sum of exponentials; the exponent is the largest so far. Double, so that rows of any length add up.
struct Sum {
  double m;
  float n;
};
constexpr float kNoExponent = -1e9f;

LOWBIT_DEVICE Sum merged(Sum a, Sum b) {
  const float n = a.n > b.n ? a.n : b.n;
  return {scaled_down(a.m, a.n - n) + scaled_down(b.m, b.n - n), n};
}
LOWBIT_DEVICE Sum shuffle_xor(Sum sum, int mask) { return {shuffle_xor(sum.m, mask), shuffle_xor(sum.n, mask)}; }

}  // namespace lowbit::cuda
