// Vectors of 8 floats in AVX2 with FMA and F16C; see avx512.h for the interface.
#pragma once
#include "common/avx2.h"

namespace lowbit {
namespace {

struct Vec {
  static constexpr int64_t kWidth = 8;
  __m256 r;
};
struct Mask {
  __m256 r;
};
struct Words {
  __m256i r;
};

inline Vec splat(float x) { return {_mm256_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, Vec x) { _mm256_storeu_ps(p, x.r); }
inline Words load_words(const void* p) { return {_mm256_loadu_si256((const __m256i*)p)}; }
inline Vec signed_bits(Words w, int from, int count) {
  return {_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(w.r, 32 - count - from), 32 - count))};
}
inline Vec four_bits(Words w, int from, int less) {
  const __m256i bits = _mm256_and_si256(_mm256_srli_epi32(w.r, from), _mm256_set1_epi32(15));
  return {_mm256_cvtepi32_ps(_mm256_sub_epi32(bits, _mm256_set1_epi32(less)))};
}

inline Vec unsigned_byte(Words w, int i) { return {_mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(w.r, 8 * i), _mm256_set1_epi32(255)))}; }

inline Words no_words() { return {_mm256_setzero_si256()}; }
inline Words shifted(Words w, int right) { return {right < 0 ? _mm256_slli_epi32(w.r, -right) : _mm256_srli_epi32(w.r, right)}; }
inline Words masked(Words w, uint32_t mask) { return {_mm256_and_si256(w.r, _mm256_set1_epi32((int)mask))}; }
inline Words joined(Words a, Words b) { return {_mm256_or_si256(a.r, b.r)}; }
inline Words splat_word(const void* p) { return {_mm256_set1_epi32(*(const int*)p)}; }
inline Vec as_floats(Words w) { return {_mm256_cvtepi32_ps(w.r)}; }
// Products of 16-bit numbers, added in pairs to 32 bits; and the bytes of words by halves: 0 and 2, 1 and 3.
inline Words add_pairs(Words sum, Words x, Words w) { return {_mm256_add_epi32(sum.r, _mm256_madd_epi16(x.r, w.r))}; }
// Of bytes up to 128, whose products with two signed ones fit in 16 bits.
inline Words add_dots(Words sum, Words bytes, Words x) {
  return {_mm256_add_epi32(sum.r, _mm256_madd_epi16(_mm256_maddubs_epi16(bytes.r, x.r), _mm256_set1_epi16(1)))};
}
inline Words operator+(Words a, Words b) { return {_mm256_add_epi32(a.r, b.r)}; }
inline Words operator*(Words a, Words b) { return {_mm256_mullo_epi32(a.r, b.r)}; }
inline Words operator^(Words a, Words b) { return {_mm256_xor_si256(a.r, b.r)}; }
inline Words signed_words(const int8_t* p) { return {_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p))}; }
inline Words signed_shift(Words w, int right) { return {_mm256_srai_epi32(w.r, right)}; }
inline Words looked_up(const uint8_t* table, Words w) {
  return {_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)table)), w.r)};
}
inline Vec number_at(const float* table, Words w) {
  const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), w.r), high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), w.r);
  return {_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(w.r, 28)))};
}
inline void store_words(void* p, Words w) { _mm256_storeu_si256((__m256i*)p, w.r); }
inline Words even_bytes(Words w) { return masked(w, 0x00ff00ffu); }
inline Words odd_bytes(Words w) { return {_mm256_srli_epi16(w.r, 8)}; }
inline Words lines_of(Words bytes, Words scale, Words minimum) { return {_mm256_add_epi8(_mm256_mullo_epi16(bytes.r, scale.r), minimum.r)}; }
inline Words scales_of(const uint8_t* p) { return {_mm256_mullo_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)), _mm256_set1_epi32(0x10001))}; }
inline Words minima_of(const int8_t* p) { return {_mm256_mullo_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)), _mm256_set1_epi32(0x1010101))}; }

template <Dtype dtype>
inline Vec load_as(const void* row, int64_t i) { return {load8(row, dtype, i)}; }
template <Dtype dtype>
inline Vec load_as(const void* row, int64_t i, int64_t count, float fill) {
  if (count >= 8) return load_as<dtype>(row, i);
  float lanes[8];
  for (int64_t j = 0; j < 8; ++j) lanes[j] = j < count ? load_float(row, dtype, i + j) : fill;
  return load(lanes);
}
template <Dtype dtype, int part>
inline Vec load_part(const void* row, int64_t i) { return load_as<dtype>(row, i + part * Vec::kWidth); }
template <Dtype dtype, int part>
inline Vec load_part(const void* row, int64_t i, int64_t count) { return load_as<dtype>(row, i + part * Vec::kWidth, count - part * Vec::kWidth, 0); }
inline Vec load_bytes(const int8_t* p) { return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)))}; }
inline Vec load_bytes(const int8_t* p, int64_t count) {
  int8_t bytes[8] = {};
  for (int64_t j = 0; j < 8 && j < count; ++j) bytes[j] = p[j];
  return load_bytes(bytes);
}
template <Dtype dtype>
inline void in_order(Vec&, Vec&) {}
template <Dtype dtype>
inline void store_as(void* row, int64_t i, Vec x) { store8(row, dtype, i, 8, x.r); }
template <Dtype dtype>
inline void store_as(void* row, int64_t i, int64_t count, Vec x) { store8(row, dtype, i, count, x.r); }
inline void store_some(void* row, Dtype dtype, int64_t i, int64_t count, Vec x) { store8(row, dtype, i, count, x.r); }
template <Dtype dtype>
inline void stream_as(void* row, int64_t i, Vec x) {
  if (dtype == kF32) _mm256_stream_ps((float*)row + i, x.r);
  else _mm_stream_si128((__m128i*)((uint16_t*)row + i), dtype == kBF16 ? to_bf16(x.r) : _mm256_cvtps_ph(x.r, _MM_FROUND_TO_NEAREST_INT));
}
inline void stream_end() { _mm_sfence(); }

inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.r, b.r)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.r, b.r)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.r, b.r)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.r, b.r)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.r, b.r, c.r)}; }
inline Vec add_product(Vec a, Vec b, Vec c) { return fma(a, b, c); }
inline Vec floor_of(Vec x) { return {_mm256_floor_ps(x.r)}; }
inline Vec smaller(Vec a, Vec b) { return {_mm256_min_ps(a.r, b.r)}; }
inline Vec larger(Vec a, Vec b) { return {_mm256_max_ps(a.r, b.r)}; }

// In two factors, since one exponent field cannot hold all of n; what falls below 2^-126 on the way becomes zero or subnormal.
inline Vec times_power(Vec m, Vec n) {
  const __m256 bounded = _mm256_max_ps(_mm256_set1_ps(-252.0f), _mm256_min_ps(n.r, _mm256_set1_ps(254.0f)));
  const __m256i whole = _mm256_cvtps_epi32(bounded), half = _mm256_srai_epi32(whole, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256 a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  const __m256 b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23));
  return {_mm256_mul_ps(_mm256_mul_ps(m.r, a), b)};
}

inline Vec fraction(Vec t, Vec& n) {
  n = {_mm256_floor_ps(_mm256_max_ps(_mm256_set1_ps(-1000.0f), t.r))};
  return {_mm256_sub_ps(_mm256_max_ps(_mm256_set1_ps(-1000.0f), t.r), n.r)};
}

// The integer n + 127, added to 1.5 * 2^23, stands in the low bits and becomes the exponent field; field 0 is the number zero.
inline Vec scaled(Vec m, Vec n) {
  const __m256 bounded = _mm256_min_ps(_mm256_max_ps(n.r, _mm256_set1_ps(-127.0f)), _mm256_set1_ps(128.0f));
  const __m256i power = _mm256_slli_epi32(_mm256_castps_si256(_mm256_add_ps(bounded, _mm256_set1_ps(0x1.8000fep23f))), 23);
  return {_mm256_mul_ps(m.r, _mm256_castsi256_ps(power))};
}

inline Mask above(Vec a, Vec b) { return {_mm256_cmp_ps(a.r, b.r, _CMP_GT_OQ)}; }
inline Mask at_least(Vec a, Vec b) { return {_mm256_cmp_ps(a.r, b.r, _CMP_GE_OQ)}; }
inline Mask equal(Vec a, Vec b) { return {_mm256_cmp_ps(a.r, b.r, _CMP_EQ_OQ)}; }
inline Mask is_nan(Vec a) { return {_mm256_cmp_ps(a.r, a.r, _CMP_UNORD_Q)}; }
inline Mask operator|(Mask a, Mask b) { return {_mm256_or_ps(a.r, b.r)}; }
inline bool any(Mask m) { return _mm256_movemask_ps(m.r) != 0; }
inline uint32_t bits_of(Mask m) { return (uint32_t)_mm256_movemask_ps(m.r); }
inline Vec select(Mask m, Vec yes, Vec no) { return {_mm256_blendv_ps(no.r, yes.r, m.r)}; }
inline Mask bytes_set(const uint8_t* p, int64_t count) {
  uint64_t bytes = 0;
  if (count >= 8) memcpy(&bytes, p, 8);
  else for (int64_t j = 0; j < count; ++j) bytes |= (uint64_t)p[j] << (8 * j);
  const __m256i lanes = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)bytes));
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(lanes, _mm256_setzero_si256()))};
}
inline void set_bytes(uint8_t* p, Mask m) {
  for (uint32_t bits = bits_of(m); bits; bits &= bits - 1) p[__builtin_ctz(bits)] = 1;
}

inline Words magnitude(Vec x) { return {_mm256_and_si256(_mm256_castps_si256(x.r), _mm256_set1_epi32(0x7fffffff))}; }
inline Vec absolute(Vec x) { return {_mm256_castsi256_ps(magnitude(x).r)}; }
inline Words larger(Words a, Words b) { return {_mm256_max_epu32(a.r, b.r)}; }
inline uint32_t max_of(Words w) {
  __m128i m = _mm_max_epu32(_mm256_castsi256_si128(w.r), _mm256_extracti128_si256(w.r, 1));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
  return (uint32_t)_mm_cvtsi128_si32(m);
}

inline float sum_of(Vec x) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x.r), _mm256_extractf128_ps(x.r, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float max_of(Vec x) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x.r), _mm256_extractf128_ps(x.r, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

template <int half>
inline Vec butterfly(Vec x) {
  const __m256 sign = half == 1 ? _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1) : half == 2 ? _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1)
                                                                             : _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
  const __m256 partner = half == 1 ? _mm256_permute_ps(x.r, 0xb1) : half == 2 ? _mm256_permute_ps(x.r, 0x4e)
                                                                              : _mm256_permute2f128_ps(x.r, x.r, 0x01);
  return {_mm256_fmadd_ps(x.r, sign, partner)};
}

inline Words rounded(Vec x) { return {_mm256_cvtps_epi32(x.r)}; }
inline void store_bytes(int8_t* to, const Words* c, uint8_t flip) {
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // undoes the packs' lanes
  const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(c[0].r, c[1].r), _mm256_packs_epi32(c[2].r, c[3].r));
  _mm256_storeu_si256((__m256i*)to, _mm256_xor_si256(_mm256_permutevar8x32_epi32(packed, order), _mm256_set1_epi8((char)flip)));
}

inline void transpose(Vec* x) {
  __m256 a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(x[i].r, x[i + 1].r);
    a[i + 1] = _mm256_unpackhi_ps(x[i].r, x[i + 1].r);
  }
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    x[i] = {_mm256_permute2f128_ps(b[i], b[i + 4], 0x20)};
    x[i + 4] = {_mm256_permute2f128_ps(b[i], b[i + 4], 0x31)};
  }
}

inline Vec sums_of_four(const Vec* x) { return {_mm256_hadd_ps(_mm256_hadd_ps(x[0].r, x[1].r), _mm256_hadd_ps(x[2].r, x[3].r))}; }
inline Vec sums_of_fours(const Vec* x) {
  return {_mm256_add_ps(_mm256_permute2f128_ps(x[0].r, x[1].r, 0x20), _mm256_permute2f128_ps(x[0].r, x[1].r, 0x31))};
}

}  // namespace
}  // namespace lowbit
