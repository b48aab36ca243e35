// Loops over a tile of scores, four vectors at a time. Include one of the vectors first.
#pragma once
#include "softmax/sources.h"
#include "vec/exp.h"

namespace lowbit {
namespace {

constexpr float kMost = 0x1p18f;   // exp_pair is accurate up to here
constexpr float kLarge = 0x1p100f; // sums of a tile stay below, or its exponentials are taken relative to more

// The exponent of about e^top; where it rounds does not matter.
inline float power_of(float top) { return ((top > -kMost ? top : -kMost) * 0x1.715476p+0f + 0x1.8p23f) - 0x1.8p23f; }

// Exponentials are taken relative to 2^power; scores 138 below that give zero, as they would in the result.
struct Base {
  Vec floor, power;
};
inline Base base_of(float power) { return {splat((power - 200.0f) * 0x1.62E43p-1f), splat(power)}; }

inline Vec relative_exp(Vec s, const Base& base) {
  const Pair e = exp_pair(larger(base.floor, s));  // the floor also takes the place of -Inf
  return scaled(e.m, e.n - base.power);
}

template <class View>
inline float tile_max(const View& view, int64_t count) {
  Vec a = splat(-kInfinity), b = a, c = a, d = a;
  int64_t i = 0;
  for (; i + 4 * Vec::kWidth <= count; i += 4 * Vec::kWidth) {
    a = larger(view.at(i), a);
    b = larger(view.at(i + Vec::kWidth), b);
    c = larger(view.at(i + 2 * Vec::kWidth), c);
    d = larger(view.at(i + 3 * Vec::kWidth), d);
  }
  for (; i + Vec::kWidth <= count; i += Vec::kWidth) a = larger(view.at(i), a);
  if (i < count) b = larger(view.at(i, count - i), b);
  return max_of(larger(larger(a, b), larger(c, d)));
}

// The sum of the exponentials, which are kept if asked. A lane adds up four, then four such sums: every sum rounds, and terms added one
// after the other to a large one may each be half lost.
template <bool keep, class View>
inline float tile_sum(const View view, int64_t count, const Base base, float* kept) {
  Vec total = splat(0.0f), rest[2] = {total, total};
  int64_t i = 0;
  while (i + 4 * Vec::kWidth <= count) {
    Vec sum[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
    const int64_t end = i + 16 * Vec::kWidth < count ? i + 16 * Vec::kWidth : count;
    for (; i + 4 * Vec::kWidth <= end; i += 4 * Vec::kWidth) {
      for (int j = 0; j < 4; ++j) {
        const Vec e = relative_exp(view.at(i + j * Vec::kWidth), base);
        if (keep) store(kept + i + j * Vec::kWidth, e);
        sum[j] = sum[j] + e;
      }
    }
    total = total + ((sum[0] + sum[1]) + (sum[2] + sum[3]));
  }
  for (; i + Vec::kWidth <= count; i += Vec::kWidth) {
    const Vec e = relative_exp(view.at(i), base);
    if (keep) store(kept + i, e);
    rest[0] = rest[0] + e;
  }
  if (i < count) {
    const Vec e = relative_exp(view.at(i, count - i), base);
    if (keep) store_as<kF32>(kept, i, count - i, e);
    rest[1] = rest[1] + e;
  }
  return sum_of(total + (rest[0] + rest[1]));
}

// Elements before out[i] is aligned to a vector.
template <Dtype dtype>
inline int64_t unaligned(const void* out, int64_t count) {
  const int64_t size = element_size(dtype), past = (int64_t)((uintptr_t)out % (Vec::kWidth * size));
  const int64_t head = past ? (Vec::kWidth * size - past) / size : 0;
  return head < count ? head : count;
}

// out = f(score); `stream` stores past the caches.
template <Dtype dtype, bool stream, class View, class F>
inline void tile_write(const View& view, int64_t count, void* out, F f) {
  int64_t i = 0;
  if (stream) {
    i = unaligned<dtype>(out, count);
    if (i) store_as<dtype>(out, 0, i, f(view.at(0, i)));
  }
  for (; i + 4 * Vec::kWidth <= count; i += 4 * Vec::kWidth) {
    Vec y[4];
    for (int j = 0; j < 4; ++j) y[j] = f(view.at(i + j * Vec::kWidth));
    for (int j = 0; j < 4; ++j) {
      if (stream) stream_as<dtype>(out, i + j * Vec::kWidth, y[j]);
      else store_as<dtype>(out, i + j * Vec::kWidth, y[j]);
    }
  }
  for (; i < count; i += Vec::kWidth) {
    const int64_t some = count - i;
    if (some >= Vec::kWidth) store_as<dtype>(out, i, f(view.at(i)));
    else store_as<dtype>(out, i, some, f(view.at(i, some)));
  }
}

}  // namespace
}  // namespace lowbit
