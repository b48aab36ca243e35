// Vectors of 4 floats in plain C++, which compilers map to whatever the baseline has; see avx512.h for the interface.
#pragma once
#include <math.h>

#include "common/convert.h"

namespace lowbit {
namespace {

struct Vec {
  static constexpr int64_t kWidth = 4;
  float r[4];
};
struct Mask {
  bool r[4];
};

template <class F>
inline Vec lanes(F f) { return {{f(0), f(1), f(2), f(3)}}; }
template <class F>
inline Mask flags(F f) { return {{f(0), f(1), f(2), f(3)}}; }

inline Vec splat(float x) { return {{x, x, x, x}}; }
inline Vec load(const float* p) { return {{p[0], p[1], p[2], p[3]}}; }
inline void store(float* p, Vec x) { memcpy(p, x.r, sizeof(x.r)); }

template <Dtype dtype>
inline Vec load_as(const void* row, int64_t i) { return lanes([&](int j) { return load_float(row, dtype, i + j); }); }
template <Dtype dtype>
inline Vec load_as(const void* row, int64_t i, int64_t count, float fill) {
  return lanes([&](int j) { return j < count ? load_float(row, dtype, i + j) : fill; });
}
template <Dtype dtype>
inline void store_as(void* row, int64_t i, int64_t count, Vec x) {
  for (int64_t j = 0; j < 4 && j < count; ++j) store_float(row, dtype, i + j, x.r[j]);
}
template <Dtype dtype>
inline void store_as(void* row, int64_t i, Vec x) { store_as<dtype>(row, i, 4, x); }
template <Dtype dtype>
inline void stream_as(void* row, int64_t i, Vec x) { store_as<dtype>(row, i, 4, x); }
inline void stream_end() {}

inline Vec operator+(Vec a, Vec b) { return lanes([&](int j) { return a.r[j] + b.r[j]; }); }
inline Vec operator-(Vec a, Vec b) { return lanes([&](int j) { return a.r[j] - b.r[j]; }); }
inline Vec operator*(Vec a, Vec b) { return lanes([&](int j) { return a.r[j] * b.r[j]; }); }
inline Vec operator/(Vec a, Vec b) { return lanes([&](int j) { return a.r[j] / b.r[j]; }); }
// The product is exact in double: rounded twice, off by 2^-53 at most before the second.
inline Vec fma(Vec a, Vec b, Vec c) { return lanes([&](int j) { return (float)((double)a.r[j] * b.r[j] + c.r[j]); }); }
inline Vec larger(Vec a, Vec b) { return lanes([&](int j) { return a.r[j] > b.r[j] ? a.r[j] : b.r[j]; }); }
inline Vec times_power(Vec m, Vec n) {
  return lanes([&](int j) {
    const float bounded = n.r[j] > 254.0f ? 254.0f : n.r[j] > -252.0f ? n.r[j] : -252.0f;
    const int32_t whole = (int32_t)bounded, half = whole >> 1;
    return m.r[j] * bits_float((uint32_t)(half + 127) << 23) * bits_float((uint32_t)(whole - half + 127) << 23);
  });
}

inline Vec fraction(Vec t, Vec& n) {
  n = lanes([&](int j) { return t.r[j] < -1000.0f ? -1000.0f : floorf(t.r[j]); });
  return lanes([&](int j) { return t.r[j] < -1000.0f ? 0.0f : t.r[j] - n.r[j]; });
}

inline Vec scaled(Vec m, Vec n) {
  return lanes([&](int j) {
    const float bounded = n.r[j] > 128.0f ? 128.0f : n.r[j] > -127.0f ? n.r[j] : -127.0f;
    return m.r[j] * bits_float((uint32_t)((int32_t)bounded + 127) << 23);
  });
}

inline Mask above(Vec a, Vec b) { return flags([&](int j) { return a.r[j] > b.r[j]; }); }
inline Mask equal(Vec a, Vec b) { return flags([&](int j) { return a.r[j] == b.r[j]; }); }
inline Mask is_nan(Vec a) { return flags([&](int j) { return a.r[j] != a.r[j]; }); }
inline Mask operator|(Mask a, Mask b) { return flags([&](int j) { return a.r[j] || b.r[j]; }); }
inline bool any(Mask m) { return m.r[0] || m.r[1] || m.r[2] || m.r[3]; }
inline Vec select(Mask m, Vec yes, Vec no) { return lanes([&](int j) { return m.r[j] ? yes.r[j] : no.r[j]; }); }
inline Mask bytes_set(const uint8_t* p, int64_t count) { return flags([&](int j) { return j < count && p[j] != 0; }); }

inline float sum_of(Vec x) { return (x.r[0] + x.r[2]) + (x.r[1] + x.r[3]); }
inline float max_of(Vec x) {
  const float a = x.r[0] > x.r[2] ? x.r[0] : x.r[2], b = x.r[1] > x.r[3] ? x.r[1] : x.r[3];
  return a > b ? a : b;
}

inline void transpose(Vec* x) {
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < i; ++j) {
      const float held = x[i].r[j];
      x[i].r[j] = x[j].r[i];
      x[j].r[i] = held;
    }
  }
}

inline Vec sums_of(const Vec* x) { return lanes([&](int j) { return sum_of(x[j]); }); }

}  // namespace
}  // namespace lowbit
