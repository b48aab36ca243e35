// Vectors of 16 floats in AVX-512. The three files of this folder have one interface, over which the algorithms are written once.
#pragma once
#include "common/avx512.h"

namespace lowbit {
namespace {  // internal linkage: no symbol compiled for AVX-512 may serve baseline code

struct Vec {
  static constexpr int64_t kWidth = 16;
  __m512 r;
};
struct Mask {
  __mmask16 r;
};

inline Vec splat(float x) { return {_mm512_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vec x) { _mm512_storeu_ps(p, x.r); }

// Elements i ... of a row of any dtype; the second form reads the first `count` and puts `fill` in the others.
template <Dtype dtype>
inline Vec load_as(const void* row, int64_t i) { return {load16(row, dtype, i, 0xffff)}; }
template <Dtype dtype>
inline Vec load_as(const void* row, int64_t i, int64_t count, float fill) {
  return {_mm512_mask_mov_ps(_mm512_set1_ps(fill), first(count), load16(row, dtype, i, first(count)))};
}
template <Dtype dtype>
inline void store_as(void* row, int64_t i, Vec x) { store16(row, dtype, i, 0xffff, x.r); }
template <Dtype dtype>
inline void store_as(void* row, int64_t i, int64_t count, Vec x) { store16(row, dtype, i, first(count), x.r); }
// Past the caches; row + i must be aligned to a vector of that dtype. stream_end() must follow.
template <Dtype dtype>
inline void stream_as(void* row, int64_t i, Vec x) {
  if (dtype == kF32) _mm512_stream_ps((float*)row + i, x.r);
  else _mm256_stream_si256((__m256i*)((uint16_t*)row + i), dtype == kBF16 ? to_bf16(x.r) : _mm512_cvtps_ph(x.r, _MM_FROUND_TO_NEAREST_INT));
}
inline void stream_end() { _mm_sfence(); }

inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.r, b.r)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.r, b.r)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.r, b.r)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.r, b.r)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.r, b.r, c.r)}; }
inline Vec larger(Vec a, Vec b) { return {_mm512_max_ps(a.r, b.r)}; }   // b if either is NaN
inline Vec times_power(Vec m, Vec n) { return {_mm512_scalef_ps(m.r, n.r)}; }  // m * 2^floor(n); n may be infinite
// t - floor(t), and an n for times_power; of -infinity a finite fraction.
inline Vec fraction(Vec t, Vec& n) {
  n = t;
  return {_mm512_reduce_ps(t.r, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}
inline Vec scaled(Vec m, Vec n) { return times_power(m, n); }          // the same at n <= 128, where what is below 2^-126 may become zero

inline Mask above(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.r, b.r, _CMP_GT_OQ)}; }
inline Mask equal(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.r, b.r, _CMP_EQ_OQ)}; }
inline Mask is_nan(Vec a) { return {_mm512_cmp_ps_mask(a.r, a.r, _CMP_UNORD_Q)}; }
inline Mask operator|(Mask a, Mask b) { return {(__mmask16)(a.r | b.r)}; }
inline bool any(Mask m) { return m.r != 0; }
inline Vec select(Mask m, Vec yes, Vec no) { return {_mm512_mask_mov_ps(no.r, m.r, yes.r)}; }
inline Mask bytes_set(const uint8_t* p, int64_t count) { return {(__mmask16)_mm_test_epi8_mask(_mm_maskz_loadu_epi8(first(count), p), _mm_set1_epi8(-1))}; }

inline float sum_of(Vec x) { return _mm512_reduce_add_ps(x.r); }
inline float max_of(Vec x) { return _mm512_reduce_max_ps(x.r); }

// x[i] lane j becomes x[j] lane i.
inline void transpose(Vec* x) { transpose16((__m512i*)x); }  // __m512i may alias

// Lane j is the sum of x[j]'s lanes.
inline Vec sums_of(const Vec* x) {
  __m512 four[4];
  for (int j = 0; j < 4; ++j) {
    const __m512 a = x[4 * j].r, b = x[4 * j + 1].r, c = x[4 * j + 2].r, d = x[4 * j + 3].r;
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    four[j] = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));  // in each quarter: a b c d
  }
  const __m512 low = _mm512_add_ps(_mm512_shuffle_f32x4(four[0], four[1], 0x88), _mm512_shuffle_f32x4(four[0], four[1], 0xdd));
  const __m512 high = _mm512_add_ps(_mm512_shuffle_f32x4(four[2], four[3], 0x88), _mm512_shuffle_f32x4(four[2], four[3], 0xdd));
  return {_mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd))};
}

}  // namespace
}  // namespace lowbit
