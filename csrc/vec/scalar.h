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
struct Words {
  uint32_t r[4];
};

template <class F>
inline Vec lanes(F f) { return {{f(0), f(1), f(2), f(3)}}; }
template <class F>
inline Mask flags(F f) { return {{f(0), f(1), f(2), f(3)}}; }

inline Vec splat(float x) { return {{x, x, x, x}}; }
inline Vec load(const float* p) { return {{p[0], p[1], p[2], p[3]}}; }
inline void store(float* p, Vec x) { memcpy(p, x.r, sizeof(x.r)); }
inline Words load_words(const void* p) {
  Words w;
  memcpy(w.r, p, sizeof(w.r));
  return w;
}
inline Vec signed_bits(Words w, int from, int count) {
  return lanes([&](int j) { return (float)((int32_t)(w.r[j] << (32 - count - from)) >> (32 - count)); });
}
inline Vec four_bits(Words w, int from, int less) { return lanes([&](int j) { return (float)((int32_t)(w.r[j] >> from & 15) - less); }); }

inline Vec unsigned_byte(Words w, int i) { return lanes([&](int j) { return (float)(w.r[j] >> 8 * i & 255); }); }

template <class F>
inline Words words(F f) { return {{f(0), f(1), f(2), f(3)}}; }
inline Words no_words() { return {}; }
inline Words shifted(Words w, int right) { return words([&](int j) { return right < 0 ? w.r[j] << -right : w.r[j] >> right; }); }
inline Words masked(Words w, uint32_t mask) { return words([&](int j) { return w.r[j] & mask; }); }
inline Words joined(Words a, Words b) { return words([&](int j) { return a.r[j] | b.r[j]; }); }
inline Words splat_word(const void* p) {
  uint32_t word;
  memcpy(&word, p, 4);
  return {{word, word, word, word}};
}
inline Vec as_floats(Words w) { return lanes([&](int j) { return (float)(int32_t)w.r[j]; }); }
inline Words add_dots(Words sum, Words bytes, Words x) {
  for (int i = 0; i < 32; i += 8) {
    for (int j = 0; j < 4; ++j) sum.r[j] += (bytes.r[j] >> i & 255) * (uint32_t)(int32_t)(int8_t)(x.r[j] >> i);
  }
  return sum;
}
inline Words operator+(Words a, Words b) { return words([&](int j) { return a.r[j] + b.r[j]; }); }
inline Words operator*(Words a, Words b) { return words([&](int j) { return a.r[j] * b.r[j]; }); }
inline Words operator^(Words a, Words b) { return words([&](int j) { return a.r[j] ^ b.r[j]; }); }
inline Words signed_words(const int8_t* p) { return words([&](int j) { return (uint32_t)(int32_t)p[j]; }); }
inline Words signed_shift(Words w, int right) { return words([&](int j) { return (uint32_t)((int32_t)w.r[j] >> right); }); }
inline Vec number_at(const float* table, Words w) { return lanes([&](int j) { return table[w.r[j] & 15]; }); }
inline void store_words(void* p, Words w) { memcpy(p, w.r, sizeof(w.r)); }
// Bytes added one by one: their lower 7 bits, then the eighth without a carry.
inline Words lines_of(Words bytes, Words scale, Words minimum) {
  return words([&](int j) {
    const uint32_t a = bytes.r[j] * scale.r[j], b = minimum.r[j];
    return ((a & 0x7f7f7f7fu) + (b & 0x7f7f7f7fu)) ^ ((a ^ b) & 0x80808080u);
  });
}
inline Words scales_of(const uint8_t* p) { return words([&](int j) { return (uint32_t)p[j]; }); }
inline Words minima_of(const int8_t* p) { return words([&](int j) { return (uint32_t)(uint8_t)p[j] * 0x1010101u; }); }

template <Dtype dtype>
inline Vec load_as(const void* row, int64_t i) { return lanes([&](int j) { return load_float(row, dtype, i + j); }); }
template <Dtype dtype>
inline Vec load_as(const void* row, int64_t i, int64_t count, float fill) {
  return lanes([&](int j) { return j < count ? load_float(row, dtype, i + j) : fill; });
}
template <Dtype dtype, int part>
inline Vec load_part(const void* row, int64_t i) { return load_as<dtype>(row, i + part * Vec::kWidth); }
template <Dtype dtype, int part>
inline Vec load_part(const void* row, int64_t i, int64_t count) { return load_as<dtype>(row, i + part * Vec::kWidth, count - part * Vec::kWidth, 0); }
inline Vec load_bytes(const int8_t* p) { return lanes([&](int j) { return (float)p[j]; }); }
inline Vec load_bytes(const int8_t* p, int64_t count) { return lanes([&](int j) { return j < count ? (float)p[j] : 0.0f; }); }
template <Dtype dtype>
inline void in_order(Vec&, Vec&) {}
inline void store_some(void* row, Dtype dtype, int64_t i, int64_t count, Vec x) {
  for (int64_t j = 0; j < 4 && j < count; ++j) store_float(row, dtype, i + j, x.r[j]);
}
template <Dtype dtype>
inline void store_as(void* row, int64_t i, int64_t count, Vec x) { store_some(row, dtype, i, count, x); }
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
inline Vec add_product(Vec a, Vec b, Vec c) { return c + a * b; }
inline Vec floor_of(Vec x) { return lanes([&](int j) { return floorf(x.r[j]); }); }
inline Vec smaller(Vec a, Vec b) { return lanes([&](int j) { return a.r[j] < b.r[j] ? a.r[j] : b.r[j]; }); }
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
inline Mask at_least(Vec a, Vec b) { return flags([&](int j) { return a.r[j] >= b.r[j]; }); }
inline Mask equal(Vec a, Vec b) { return flags([&](int j) { return a.r[j] == b.r[j]; }); }
inline Mask is_nan(Vec a) { return flags([&](int j) { return a.r[j] != a.r[j]; }); }
inline Mask operator|(Mask a, Mask b) { return flags([&](int j) { return a.r[j] || b.r[j]; }); }
inline bool any(Mask m) { return m.r[0] || m.r[1] || m.r[2] || m.r[3]; }
inline uint32_t bits_of(Mask m) { return (uint32_t)m.r[0] | (uint32_t)m.r[1] << 1 | (uint32_t)m.r[2] << 2 | (uint32_t)m.r[3] << 3; }
inline Vec select(Mask m, Vec yes, Vec no) { return lanes([&](int j) { return m.r[j] ? yes.r[j] : no.r[j]; }); }
inline Mask bytes_set(const uint8_t* p, int64_t count) { return flags([&](int j) { return j < count && p[j] != 0; }); }
inline void set_bytes(uint8_t* p, Mask m) {
  for (int j = 0; j < 4; ++j) p[j] |= m.r[j];
}

inline Words magnitude(Vec x) {
  Words w;
  for (int j = 0; j < 4; ++j) w.r[j] = float_bits(x.r[j]) & 0x7fffffffu;
  return w;
}
inline Vec absolute(Vec x) { return lanes([&](int j) { return __builtin_fabsf(x.r[j]); }); }
inline Words larger(Words a, Words b) {
  for (int j = 0; j < 4; ++j) a.r[j] = b.r[j] > a.r[j] ? b.r[j] : a.r[j];
  return a;
}
inline uint32_t max_of(Words w) {
  const uint32_t a = w.r[0] > w.r[2] ? w.r[0] : w.r[2], b = w.r[1] > w.r[3] ? w.r[1] : w.r[3];
  return a > b ? a : b;
}

inline float sum_of(Vec x) { return (x.r[0] + x.r[2]) + (x.r[1] + x.r[3]); }
inline float max_of(Vec x) {
  const float a = x.r[0] > x.r[2] ? x.r[0] : x.r[2], b = x.r[1] > x.r[3] ? x.r[1] : x.r[3];
  return a > b ? a : b;
}

template <int half>
inline Vec butterfly(Vec x) { return lanes([&](int j) { return j & half ? x.r[j ^ half] - x.r[j] : x.r[j] + x.r[j ^ half]; }); }

// Adding 1.5 * 2^23 rounds to an integer, to nearest even, and leaves it in the low bits.
inline Words rounded(Vec x) {
  Words w;
  for (int j = 0; j < 4; ++j) w.r[j] = float_bits(x.r[j] + 0x1.8p23f);
  return w;
}
inline void store_bytes(int8_t* to, const Words* c, uint8_t flip) {
  for (int i = 0; i < 16; ++i) to[i] = (int8_t)(c[i / 4].r[i % 4] ^ flip);
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

inline Vec sums_of_four(const Vec* x) { return lanes([&](int j) { return sum_of(x[j]); }); }
inline Vec sums_of_fours(const Vec* x) { return x[0]; }

}  // namespace
}  // namespace lowbit
